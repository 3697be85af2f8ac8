"""The loggers of a training: ``metrics.csv``, TensorBoard, and trackers that know it by an id."""

from __future__ import annotations

import inspect
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from erssl.callbacks import ResumableCSVLogger
from erssl.files import write_json
from erssl.layers import flat
from erssl.settings.loggers import (
    CSV,
    MLFLOW,
    TENSORBOARD,
    WANDB,
    LoggerError,
    logger_class,
    logger_names,
    option_key,
)

IDS = "loggers.json"  # by which a resumed run is the same run to its trackers
_FILES = (ResumableCSVLogger, TensorBoardLogger)
_PROJECT = "erssl"
_PARAMETERS = 100  # that MLflow takes at once
_LONGEST = 6000  # characters of a parameter that MLflow takes


class _TensorBoard(TensorBoardLogger):
    """Leaves out ``hparams.yaml``, which would be empty: ``config.yaml`` has all settings."""

    def save(self) -> None:
        """Write what was logged."""
        super(TensorBoardLogger, self).save()


def make_loggers(
    path: Path,
    resume_step: int | None,
    asked: str | list[str] | None = None,
    options: Mapping[str, Any] | None = None,
    run: Path | None = None,
    files: bool = True,
) -> list[Logger]:
    """Make the loggers of a training, and open those that may fail.

    Args:
        path: Where files go: the run directory, or that of one of its trainings.
        resume_step: Step of the checkpoint that the training goes on from; ``None`` of a new one.
        asked: What ``logger=`` says; ``None`` for ``metrics.csv``, and TensorBoard's files where
            its package is installed.
        options: Arguments of the trackers, by their names.
        run: The run directory, by which trackers name what they are told; ``None`` for ``path``.
        files: Whether ``metrics.csv`` and TensorBoard's files are among them.

    Raises:
        LoggerError: If a tracker refuses its options, or cannot be reached.
    """
    ids = _read_ids(path) if resume_step is not None else {}
    loggers: list[Logger] = []
    named = _Named.of(path, run or path)
    for name in logger_names(asked):
        if name in (CSV, TENSORBOARD) and not files:
            continue
        if name == CSV:
            loggers.append(ResumableCSVLogger(path, resume_step))
        elif name == TENSORBOARD:
            loggers.append(
                _TensorBoard(path, "", "", default_hp_metric=False, purge_step=resume_step)
            )
        else:
            own = dict((options or {}).get(option_key(name), {}))
            loggers.append(_tracker(name, named, own, ids))
    if ids:
        _keep_ids(path, ids)
    return loggers


@rank_zero_only
def _keep_ids(path: Path, ids: Mapping[str, Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / IDS, ids)


@contextmanager
def reporting(
    loggers: Sequence[Logger], config: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Tell the loggers the settings of a run, and end it for them whatever becomes of it.

    Args:
        loggers: Of the run.
        config: Its resolved settings. Each value is told under its dotted key, ``None`` as ``null``
            and a list as its JSON, since loggers leave out or rename what is neither a number nor
            a text.

    Yields:
        What tells trackers the metrics that the run came to, as ``result/<metric>``.
    """
    values = {key: _plain(value) for key, value in flat(config).items()}
    trackers = [each for each in loggers if not isinstance(each, _FILES)]
    failed = True

    def report(metrics: Mapping[str, float]) -> None:
        for tracker in trackers:
            tracker.log_metrics({f"result/{name}": v for name, v in metrics.items()})

    try:
        for logger in loggers:
            if _is(logger, MLFLOW):
                _tell_mlflow(logger, values)
            else:
                logger.log_hyperparams(values)
        yield report
        failed = False
    finally:
        for logger in loggers:
            _close(logger, failed)


def _close(logger: Any, failed: bool) -> None:
    """End the run of a tracker, so that the next training of the process has one of its own."""
    if _is(logger, WANDB):
        if getattr(logger, "opened_here", False):
            logger.experiment.finish(exit_code=int(failed))
        return
    logger.finalize("failed" if failed else "success")


class _Named(NamedTuple):
    """What trackers call a training.

    Attributes:
        path: Where its files go.
        name: Of its run directory, and of its own below that.
        store: The folder of run directories, which all runs there share.
    """

    path: Path
    name: str
    store: Path

    @classmethod
    def of(cls, path: Path, run: Path) -> _Named:
        """The names of a training in a run directory."""
        name = run.name if path == run else f"{run.name}-{path.name}"
        return cls(path, name, run.parent.absolute())


def _tracker(name: str, named: _Named, options: dict[str, Any], ids: dict[str, Any]) -> Logger:
    """A tracker with the id that the run has there; ``ids`` is told a new one."""
    try:
        if name == WANDB:
            return _wandb(named, options, ids)
        if name == MLFLOW:
            return _mlflow(named, options, ids)
        kind = logger_class(name)
        takes = inspect.signature(kind.__init__).parameters
        if name in ids and "version" in takes:
            options.setdefault("version", ids[name])
        if "save_dir" in takes:
            options.setdefault("save_dir", str(named.path))
        logger = kind(**options)
        ids[name] = logger.version
        return logger
    except Exception as error:  # of options, accounts, servers: each package has its own
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        offline = (
            "; where there is no server or account, set WANDB_MODE=offline or "
            "logger_options.wandb.offline=true"
        )
        raise LoggerError(
            f"logger={name} does not start ({reason}){offline if name == WANDB else ''}; change "
            f"logger_options.{option_key(name)}, or leave it out."
        ) from error


def _wandb(named: _Named, options: dict[str, Any], ids: dict[str, Any]) -> Logger:
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    theirs = wandb.run is not None  # of the program that calls us, and Lightning joins it
    ids.setdefault(WANDB, options.pop("id", options.pop("version", uuid.uuid4().hex[:8])))
    own = {"project": os.environ.get("WANDB_PROJECT", _PROJECT), "name": named.name}
    logger = WandbLogger(save_dir=named.path, version=ids[WANDB], **{**own, **options})
    _ = logger.experiment  # now, and not at the first metric
    logger.opened_here = not theirs  # type: ignore[attr-defined]
    return logger


def _mlflow(named: _Named, options: dict[str, Any], ids: dict[str, Any]) -> Logger:
    from pytorch_lightning.loggers import MLFlowLogger

    # One store of all runs, to compare them; MLflow's own files are refused by its newer versions.
    store = named.store
    own: dict[str, Any] = {"experiment_name": _PROJECT, "run_name": named.name}
    own["tracking_uri"] = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store}/mlflow.db"
    if own["tracking_uri"].startswith("sqlite:"):
        own["artifact_location"] = (store / "mlartifacts").as_uri()
        store.mkdir(parents=True, exist_ok=True)
    if MLFLOW in ids:
        own["run_id"] = ids[MLFLOW]
    logger = MLFlowLogger(**{**own, **options})
    ids[MLFLOW] = logger.run_id
    return logger


def _tell_mlflow(logger: Any, values: Mapping[str, Any]) -> None:
    """MLflow keeps a parameter as it was first told; what a resumed run has changed is a tag.

    Not by Lightning's method, which cuts texts to 250 characters.
    """
    from mlflow.entities import Param

    client, run = logger.experiment, logger.run_id
    if client is None or run is None:  # not the first process
        return
    there = client.get_run(run).data.params
    texts = {key: str(value)[:_LONGEST] for key, value in values.items()}
    new = [Param(key, text) for key, text in texts.items() if key not in there]
    for start in range(0, len(new), _PARAMETERS):
        client.log_batch(run, params=new[start : start + _PARAMETERS])
    for key, text in texts.items():
        if there.get(key, text) != text:
            client.set_tag(run, f"resumed.{key}", text)


def _is(logger: Logger, name: str) -> bool:
    """Whether a logger is Lightning's of that name; nothing is imported to find out."""
    return type(logger).__module__ == f"pytorch_lightning.loggers.{name}"


def _plain(value: Any) -> Any:
    if value is None:
        return "null"
    return value if isinstance(value, str | int | float) else json.dumps(value, default=str)


def _read_ids(path: Path) -> dict[str, Any]:
    """The ids that trackers have given a run; none where the file is damaged."""
    with suppress(OSError, ValueError):
        ids = json.loads((path / IDS).read_text(encoding="utf-8"))
        if isinstance(ids, dict):
            return ids
    return {}
