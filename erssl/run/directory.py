"""The run directory: what a run leaves behind, and when it may be written to."""

from __future__ import annotations

import csv
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import erssl
from erssl.errors import DataError, RunError
from erssl.files import PARTIAL, write_rows, write_text
from erssl.yaml_text import commented_yaml, read_settings_file

if TYPE_CHECKING:
    import torch

CHECKPOINTS = "checkpoints"
CONFIG = "config.yaml"
RESULTS = "results.json"
METRICS = "metrics.csv"
DAMAGED_METRICS = "metrics-damaged.csv"
LENS = "lens.csv"
LENS_FIGURE = "lens.png"
PREDICTIONS = "predictions.png"
ENVIRONMENT = "environment.json"
HEADER = "header.txt"
_LARGEST = 1e100  # of a reading
RUN_DIR_VARIABLE = "ERSSL_RUN_DIR"  # how the processes of one run agree on a default run_dir
LAST_CHECKPOINT = f"{CHECKPOINTS}/last.ckpt"
_EVALUATION_FILES = ("subset.txt", "confusion.csv", "per_class.csv")
READINGS = "readings.json"  # without labels, of a finished pretraining
LINEAR = "linear.json"  # its linear accuracy, where that was measured afterwards
_OF_STORES = ("images.json", "failure.json")  # see erssl.studies.store
_TABLE_FILES = ("transfer.md", "transfer.csv", "transfer.json")
_FIGURES = tuple(
    f"{name}.{kind}"
    for name in ("curves", "lens", "predictions", "confusion", "per_class", "transfer")
    for kind in ("png", "pdf", "svg")
)
_WEIGHTS = "backbone.safetensors"
_EVENTS = "events.out.tfevents.*"  # of TensorBoard
_COMPUTED = (CHECKPOINTS, "detectron2")  # folders of what was trained
# What a run writes before it computes: settings, surroundings, and which images it will take.
_BEGUN = (CONFIG, ENVIRONMENT, HEADER, "subset.txt", "hparams.yaml", "loggers.json")
_PACKAGES = (
    "erssl",
    "torch",
    "torchvision",
    "lightly",
    "pytorch-lightning",
    "timm",
    "numpy",
    "opencv-python-headless",
    "pycocotools",
    "detectron2",  # of extras, where installed
)
_COMMAND: ContextVar[tuple[str, ...]] = ContextVar("command of a Python program", default=())


class RunDirectory:
    """A folder that holds one run.

    What ended before it had computed anything, such as a command that found no memory, leaves
    settings and surroundings behind; the next run takes their place unasked.

    Attributes:
        path: The folder.
    """

    def __init__(
        self,
        path: str | Path,
        resume: bool = False,
        overwrite: bool = False,
        need_bytes: int = 0,
        resume_from: str = LAST_CHECKPOINT,
    ) -> None:
        """Make the folder ready to be written to.

        Args:
            path: The folder; made where it does not exist.
            resume: Continue the run that is in it.
            overwrite: Delete the run that is in it.
            need_bytes: What the run will write at the least, for the check of free space.
            resume_from: The file without which there is nothing to resume.

        Raises:
            RunError: If it holds a run and neither is asked for, there is nothing to resume, or
                it cannot be written to.
        """
        self.path = Path(path)
        if resume and overwrite:
            raise RunError("resume=true and overwrite=true exclude each other; give one of them.")
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"run_dir={path} is a file; name a folder.")
        if resume and not (self.path / resume_from).is_file():
            raise RunError(
                f"resume=true but {self.path / resume_from} does not exist; "
                "name the run_dir of a run that was started, or leave resume out."
            )
        if not (resume or overwrite) and only_begun(self.path):
            overwrite = True
        if self.holds_run and not (resume or overwrite):
            state = "a finished run" if self.finished else "an unfinished run"
            resumable = (self.path / resume_from).is_file()
            way = "continue it with resume=true, " if resumable else ""
            raise RunError(
                f"run_dir={path} already holds {state}; {way}delete it with overwrite=true, or "
                "name another run_dir."
            )
        if folders := [file for file in _written(self.path) if file.is_dir()]:
            raise RunError(
                f"{folders[0]} is a folder where runs write a file, so nothing is written or "
                "deleted; move it away, or name another run_dir."
            )
        self._check_writable(need_bytes)
        if overwrite:
            self._clear()

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return any((self.path / name).exists() for name in (CONFIG, RESULTS, LAST_CHECKPOINT))

    @property
    def finished(self) -> bool:
        """Whether a run came to its end here."""
        return any((self.path / name).is_file() for name in (RESULTS, _TABLE_FILES[0]))

    def write_config(
        self, config: Mapping[str, Any], sources: Mapping[str, str] | None = None
    ) -> None:
        """Write the fully resolved config, with a comment that says where each value comes from."""
        write_text(self.path / CONFIG, commented_yaml(dict(config), sources or {}))

    def _check_writable(self, need_bytes: int) -> None:
        probe = self.path / f".probe-{os.getpid()}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"erssl")
            probe.unlink()
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            raise RunError(
                f"run_dir={self.path} cannot be written to ({error.strerror}); "
                "name a folder of yours with run_dir=<folder>."
            ) from error
        if free < need_bytes:
            raise RunError(
                f"run_dir={self.path} has {free / 2**20:.0f} MiB free but the run needs at least "
                f"{need_bytes / 2**20:.0f} MiB; make room, or name another run_dir."
            )

    def _clear(self) -> None:
        """Delete what erssl writes, and nothing else."""
        files = _written(self.path)
        for folder in _COMPUTED:
            shutil.rmtree(self.path / folder, ignore_errors=True)
        for file in files:
            file.unlink(missing_ok=True)
        for seed in _seeds(self.path):
            shutil.rmtree(seed, ignore_errors=True)


def only_begun(folder: Path) -> bool:
    """Whether a run was started in a folder, and ended before there was anything to keep."""
    settings = _settings_in(folder / CONFIG)
    if settings is None or (folder / RESULTS).exists():
        return False
    # an evaluation keeps the backbone that it was given, which is no result of its own
    begun = _BEGUN if "method" in settings else (*_BEGUN, _WEIGHTS)
    files = _written(folder)
    for inner in (*(folder / name for name in _COMPUTED), *_seeds(folder)):
        files += inner.rglob("*")
    passing = (_EVENTS, f"*{PARTIAL}")
    kept = (f for f in files if f.name not in begun and not any(map(f.match, passing)))
    return not any(file.is_file() and file.stat().st_size for file in kept)


def _settings_in(config: Path) -> dict[str, Any] | None:
    """What the ``config.yaml`` of a run holds; ``None`` of a file that is called so by a user."""
    try:
        content = read_settings_file(config)
    except (OSError, ValueError):
        return None
    ours = isinstance(content, dict) and {"run_dir", "overwrite"} <= content.keys()
    return content if ours else None


def _written(folder: Path) -> list[Path]:
    """The files that erssl writes to the folder of a run."""
    written = (CONFIG, RESULTS, METRICS, DAMAGED_METRICS, _WEIGHTS, "report.md")
    names = (*written, ENVIRONMENT, HEADER, LENS, *_FIGURES)
    names += (
        *_EVALUATION_FILES,
        *_TABLE_FILES,
        "hparams.yaml",
        "loggers.json",
        READINGS,
        LINEAR,
        *_OF_STORES,
    )
    files = [folder / name for name in names]
    of_shorter = ("results-*epochs.json", "backbone-*epochs.safetensors")
    for pattern in (_EVENTS, "nonfinite-step*.pt", *of_shorter):
        files += folder.glob(pattern)
    return files


def _seeds(folder: Path) -> list[Path]:
    """The folders of the trainings of an evaluation."""
    return [seed for seed in folder.glob("seed[0-9]*") if seed.name.removeprefix("seed").isdigit()]


def make_results(
    protocol: str,
    dataset: str,
    method: str | None,
    metrics: Mapping[str, float],
    seed: int,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    wall_seconds: float,
    published: Sequence[Mapping[str, Any]] | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of ``results.json``, one schema for every protocol.

    Args:
        protocol: Such as ``"pretrain"`` or ``"knn"``.
        dataset: Name of the data set.
        method: Name of the method, where it is known.
        metrics: Values by name; accuracies lie in [0, 1].
        seed: Of the run.
        config: The resolved settings.
        environment: What :func:`environment` gave.
        wall_seconds: Seconds that the run took: of a pretraining all its parts together, of what
            else was resumed the last one.
        published: Published values of the same protocol, a group for each source and setting,
            where there are some.
        warnings: Sentences on why a metric may not be what it is taken for; a key of its own where
            there are some.
    """
    results = {
        "protocol": protocol,
        "dataset": dataset,
        "method": method,
        "metrics": dict(metrics),
        "published": {"label": "published", "groups": list(published)} if published else None,
        "seed": seed,
        "config": config,
        "environment": environment,
        "wall_seconds": wall_seconds,
    }
    return results | ({"warnings": list(warnings)} if warnings else {})


def default_run_dir(*names: str) -> Path:
    """``runs/<names>-<time>``, with a number behind it for further ones of the same second."""
    name = "-".join([*names, time.strftime("%Y%m%d-%H%M%S")])
    numbered = (Path("runs", name if n == 1 else f"{name}-{n}") for n in count(1))
    return next(path for path in numbered if not path.exists())


@contextmanager
def command_of_python(arguments: Sequence[str]) -> Iterator[None]:
    """Let results name this command: ``sys.argv`` is that of the program which calls it."""
    token = _COMMAND.set(tuple(arguments))
    try:
        yield
    finally:
        _COMMAND.reset(token)


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """Versions, device and git commit, for anyone who wants to run it again.

    Args:
        device: The device that is computed on; the CPU where nothing is said.
    """
    import torch

    on_cuda = device is not None and device.type == "cuda"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: v for name in _PACKAGES if (v := _version(name)) is not None},
        "device": torch.cuda.get_device_name(device) if on_cuda else _cpu_name(),
        "devices": torch.cuda.device_count() if on_cuda else os.cpu_count(),
        "git_commit": _git_commit(),
        "command": " ".join(["erssl", *(_COMMAND.get() or sys.argv[1:])]),
    }


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Curves of a ``metrics.csv``: for each metric its (step, value) pairs in order.

    Raises:
        DataError: If it is no such table.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    with _table(path) as rows:
        for row in rows:
            for name, value in row.items():
                if value and row["step"] and name not in ("step", "epoch"):
                    curves.setdefault(name, []).append((int(row["step"]), float(value)))
    return curves


@contextmanager
def _table(path: Path) -> Iterator[Iterator[dict[str, str]]]:
    """Rows of a CSV file by the names of their columns; what is wrong with them is our error."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield csv.DictReader(file, strict=True)
    except (ValueError, TypeError, KeyError, OverflowError, csv.Error) as error:
        raise DataError(
            f"{path} is no table as a run writes it ({type(error).__name__}: {error}); delete it, "
            "or leave its folder out."
        ) from error


def write_lens(path: Path, readings: Sequence[Mapping[str, float]]) -> None:
    """Write ``lens.csv``, whole or not at all."""
    names = list(dict.fromkeys(name for row in readings for name in row))
    write_rows(path, [names, *([row.get(name) for name in names] for row in readings)])


def read_lens(path: Path) -> list[dict[str, float]]:
    """The rows of a ``lens.csv``.

    Raises:
        DataError: If it is no such table.
    """
    with _table(path) as rows:
        read = [{k: float(v) for k, v in row.items() if v} for row in rows]
        if not all("step" in row for row in read):
            raise ValueError("a row has no step")
        if any(_LARGEST < abs(value) < math.inf for row in read for value in row.values()):
            raise ValueError("a value is too large to be drawn")
    return read


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "cpu"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "cpu"


def _git_commit() -> str | None:
    """Commit of the checkout that erssl runs from; ``None`` for an installed wheel."""
    folder = Path(erssl.__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None
    answer = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or None
