"""``erssl pretrain``: config -> views -> backbone -> loss -> checkpoint -> weights -> results."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from rich.console import Console
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from erssl.callbacks import (
    ERLens,
    LengthenedSchedule,
    LiveProgress,
    NonFiniteGuard,
    OnlineKNN,
    RunCheckpoint,
    SeededSteps,
)
from erssl.data import SSLDataModule
from erssl.data.phases import telling
from erssl.errors import DataError, RunError, counted
from erssl.files import write_json, write_text
from erssl.methods import MultiViewMethod
from erssl.protocols.build import build_method, check_images, check_method
from erssl.protocols.folder_defaults import fit_to_images, may_fit
from erssl.protocols.header import header_lines
from erssl.protocols.loggers import make_loggers, reporting
from erssl.protocols.precision import with_precision
from erssl.protocols.pretrain_measures import accuracy, callbacks_of, doubts_of, with_neighbours
from erssl.protocols.pretrain_results import finish, mend_weights, show_finished
from erssl.protocols.start import load_heads, start_of, told
from erssl.protocols.trainer import make_trainer, probe_trainer, resumed, train
from erssl.run.checkpoint_files import Resumed, has_checkpoint
from erssl.run.console import Terminal, say, say_lines
from erssl.run.directory import (
    CONFIG,
    ENVIRONMENT,
    HEADER,
    LAST_CHECKPOINT,
    LENS,
    LENS_FIGURE,
    METRICS,
    RESULTS,
    RUN_DIR_VARIABLE,
    RunDirectory,
    default_run_dir,
    environment,
    read_lens,
)
from erssl.run.faults import naming_run, restarted
from erssl.run.launch import given_folder
from erssl.run.lens_figure import plot_lens
from erssl.run.lock import locked
from erssl.run.result import Result
from erssl.run.signals import SignalWatch
from erssl.settings.arguments import MULTIRUN
from erssl.settings.loggers import check_loggers
from erssl.settings.pretrain import read_sources, stored_config
from erssl.settings.pretrain_options import PretrainSettings
from erssl.settings.trainer import check_batches


def run(overrides: Sequence[str], console: Console) -> Result:
    """Read the settings, train, print what came out."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    if set(overrides) & set(MULTIRUN):
        from erssl.protocols import compare

        return compare.run(
            [override for override in overrides if override not in MULTIRUN], console
        )
    settings, config, sources = read_sources(restarted(overrides))
    return pretrain(settings, config, console, sources)


def pretrain(
    settings: PretrainSettings,
    config: Mapping[str, Any],
    console: Console,
    sources: Mapping[str, str] | None = None,
) -> Result:
    """Train a backbone as the settings say, and leave a run directory behind.

    Args:
        settings: The run.
        config: Its resolved config, kept in the run directory.
        console: Where the closing table goes.

    Returns:
        The run directory and its results, which are empty on every process but the first.

    Raises:
        ErsslError: If the run cannot be done; of what can be known before training, nothing has
            been written then.
    """
    check_loggers(settings.logger, settings.logger_options)
    path = _run_directory(settings)
    signals = SignalWatch(path)
    with signals.installed(), naming_run(path):
        seed_everything(settings.seed, workers=True, verbose=False)
        probe = probe_trainer(settings.trainer, settings.batch_size)
        with locked(path) if probe.is_global_zero else nullcontext():
            results = _pretrain(settings, config, sources or {}, path, probe, signals, console)
        return Result.of(path, results)


def _pretrain(
    settings: PretrainSettings,
    config: Mapping[str, Any],
    sources: Mapping[str, str],
    path: Path,
    probe: Trainer,
    signals: SignalWatch,
    console: Console,
) -> dict[str, Any]:
    began = time.perf_counter()
    if settings.resume and not (path / CONFIG).is_file():
        begun = (path / RESULTS).exists() or has_checkpoint(path / LAST_CHECKPOINT)
        way = "put a copy of it back" if begun else "name the run_dir of a run that was started"
        raise RunError(
            f"resume=true but the file {path / CONFIG} does not exist; {way}, or leave resume out "
            "and name a new run_dir."
        )
    resumed_from = resumed(path) if settings.resume else None
    first = probe.is_global_zero
    tell = partial(say, console) if first else _silent
    fits = may_fit(settings, sources)  # to the images, whose number is known only then
    each = 1 if fits else settings.batch_size // probe.world_size
    check_images(settings, each)
    start = start_of(settings, resumed_from is not None)
    check_method(settings, settings.batch_size // probe.world_size, start)
    with telling(tell):
        data = SSLDataModule(settings.data, each, settings.seed)
    settings, config, sources = fit_to_images(settings, config, sources, data, probe.world_size)
    data.validate(probe.world_size)
    check_batches(settings.trainer, len(data.datasets.train) // settings.batch_size)
    method = build_method(settings, data.training_classes, data.batch_size, start)
    settings, config, sources, precision = with_precision(
        settings, config, sources, probe, path, method
    )
    heads = load_heads(method, settings) if start is not None else []
    settings = with_neighbours(settings, data, console if first else None)
    before = int(stored_config(path / CONFIG)["epochs"]) if settings.resume else settings.epochs
    os.environ[RUN_DIR_VARIABLE] = str(path)
    try:
        longer = before < settings.epochs
        if settings.resume and (path / RESULTS).is_file() and not longer:  # seen by all alike
            if not first:
                return {}
            mend_weights(settings, method, path, resumed_from, console)
            return show_finished(path, console)
        if longer and (path / RESULTS).is_file() and resumed_from is None:
            raise RunError(
                f"{path} is finished and has no checkpoint, so it cannot be made longer; put its "
                f"{LAST_CHECKPOINT} back, or name a new run_dir."
            )
        callbacks = callbacks_of(settings, data, path, method.info.min_views > 1)
        callbacks.append(LiveProgress(Terminal(stderr=True, quiet=console.quiet)))
        if resumed_from is not None:
            callbacks.append(LengthenedSchedule(settings.epochs, tell))
        if first:
            need_bytes = _least_bytes(method, settings.keep_checkpoints)
            run_dir = RunDirectory(path, settings.resume, settings.overwrite, need_bytes, CONFIG)
        step = None if resumed_from is None else resumed_from.step
        # before anything is written: a run whose logger does not start is none that began
        loggers = make_loggers(path, step, settings.logger, settings.logger_options)
        with reporting(loggers, config) as report:
            if first:
                if longer and (path / RESULTS).is_file():
                    (path / RESULTS).replace(path / f"results-{before}epochs.json")
                run_dir.write_config(config, sources)
                write_json(path / ENVIRONMENT, environment(probe.strategy.root_device))
                if settings.resume and resumed_from is None:
                    console.print(
                        "There is no checkpoint yet, so the run begins at its first step."
                    )
                header = header_lines(
                    settings, data, method, probe, path, precision, sources, resumed_from
                )
                if start is not None:
                    header.insert(0, told(settings, start, heads))
                write_text(path / HEADER, "\n".join(header) + "\n")
                say_lines(console, "\n".join(header))
            metrics = _train(
                settings, data, method, callbacks, path, probe, resumed_from, signals, loggers, tell
            )
            report(metrics)
        if not first:
            return {}
        seconds = time.perf_counter() - began
        doubted = doubts_of(metrics, data, settings.evaluation)
        return finish(settings, config, method, metrics, run_dir, seconds, console, doubted)
    finally:
        os.environ.pop(RUN_DIR_VARIABLE, None)


def _train(
    settings: PretrainSettings,
    data: SSLDataModule,
    method: MultiViewMethod,
    callbacks: list[Callback],
    path: Path,
    probe: Trainer,
    resumed_from: Resumed | None,
    signals: SignalWatch,
    loggers: Sequence[Logger],
    tell: Callable[[str], None],
) -> dict[str, float]:
    """Measure, train, measure again; only the first process measures."""
    device = probe.strategy.root_device
    evaluation = settings.evaluation
    if probe.world_size > 1 and device.type == "cuda":
        # timm's, since torch's and so Lightning's would drop the activation of BatchNormAct2d
        convert_sync_batchnorm(method)
    metrics = {}
    began_with = settings.checkpoint is None or hasattr(method.backbone, "report")
    if probe.is_global_zero and evaluation.untrained and began_with:
        tell("Evaluation before the training.")
        metrics = accuracy(method.backbone, data, evaluation, device, "untrained_")
    curves = [each for each in callbacks if isinstance(each, OnlineKNN)]
    own = next((each for each in curves if not each.name), None)
    if own is not None:  # which then need not be read twice
        own.untrained = metrics.get("untrained_knn_top1")
    kept = RunCheckpoint(path / LAST_CHECKPOINT, settings.checkpoint_every_n_steps, signals)
    guard = NonFiniteGuard(settings.on_nonfinite, path, settings.save_nonfinite_batch)
    callbacks = [*callbacks, SeededSteps(settings.seed), guard, kept]
    keep = settings.keep_checkpoints
    trainer = make_trainer(
        settings.trainer, path, settings.epochs, callbacks, resumed_from, keep, loggers
    )
    tell(f"Training for {counted(settings.epochs, 'epoch')}.")
    try:
        train(trainer, method, data, resumed_from)
        signals.training_ends()
        for lens in (c for c in callbacks if isinstance(c, ERLens)):
            lens.on_train_end(trainer, method)  # which Lightning leaves out after the last epoch
    except BaseException:  # such as a collapse, which the lens shows; what went wrong is said first
        with contextlib.suppress(OSError, DataError):
            _draw_lens(settings, probe, path)
        raise
    _draw_lens(settings, probe, path)
    if not all(bool(p.isfinite().all()) for p in method.backbone.parameters()):
        raise RunError(
            "Training diverged: the backbone's weights are not finite any more; lower "
            f"optimizer.base_lr, and see {path / METRICS} for the step at which it began."
        )
    if not probe.is_global_zero:
        return {}
    logged = ["train_loss", "train_nats_below_uniform", "train_alignment"]
    if data.datasets.labelled and data.trains_with_labels:
        logged.append("val_online_cls_top1")
    probes = [each for each in curves if each.name]
    last = None if own is None else own.last
    tell("Evaluation.")
    return {
        **accuracy(method.backbone, data, evaluation, device, read=last),
        **{f"knn_top1_{probe.name}": probe.measure(method.to(device)) for probe in probes},
        **metrics,
        **{name: kept.metrics[name] for name in logged if name in kept.metrics},
    }


def _draw_lens(settings: PretrainSettings, probe: Trainer, path: Path) -> None:
    """Draw what the lens has read so far."""
    if probe.is_global_zero and (path / LENS).is_file():
        readings = {settings.method["name"]: read_lens(path / LENS)}
        plot_lens(readings, path / LENS_FIGURE, settings.plots)


def _silent(sentence: str) -> None:
    """Say nothing, on all processes but the first."""


def _run_directory(settings: PretrainSettings) -> Path:
    """Path of the run directory."""
    default = default_run_dir(settings.method["name"], settings.data.name)
    return given_folder(settings.run_dir) or default


def _least_bytes(method: nn.Module, keep: int) -> int:
    """Weights, momentum, buffers, for each checkpoint that stays and one that is written."""
    weights = sum(p.numel() * p.element_size() for p in method.parameters())
    buffers = sum(b.numel() * b.element_size() for b in method.buffers())
    return (keep + 1) * (2 * weights + buffers)
