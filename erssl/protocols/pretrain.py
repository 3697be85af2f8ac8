"""``erssl pretrain``: config -> views -> backbone -> loss -> checkpoint -> weights -> results."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from torch import nn

from erssl.callbacks import Elapsed, LengthenedSchedule, LiveProgress
from erssl.files import write_json, write_text
from erssl.models.loading import WEIGHTS_FILE
from erssl.protocols.loggers import make_loggers, reporting
from erssl.protocols.pretrain_measures import callbacks_of, doubts_of
from erssl.protocols.pretrain_preparation import Prepared, prepare
from erssl.protocols.pretrain_results import finish, mend_weights, show_finished
from erssl.protocols.pretrain_training import train_and_measure
from erssl.protocols.trainer import probe_trainer
from erssl.run.console import Terminal, say_lines
from erssl.run.directory import (
    CONFIG,
    ENVIRONMENT,
    HEADER,
    RESULTS,
    RUN_DIR_VARIABLE,
    RunDirectory,
    default_run_dir,
    environment,
)
from erssl.run.faults import naming_run, restarted
from erssl.run.launch import given_folder
from erssl.run.lock import locked
from erssl.run.result import Result
from erssl.run.signals import SignalWatch
from erssl.settings.arguments import MULTIRUN
from erssl.settings.loggers import check_loggers
from erssl.settings.pretrain import read_sources
from erssl.settings.pretrain_options import PretrainSettings


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
    run = prepare(settings, config, sources, path, probe, console)
    os.environ[RUN_DIR_VARIABLE] = str(path)
    try:
        if settings.resume and run.finished and not run.longer:  # seen by all alike
            return _show_again(run, console)
        elapsed = Elapsed(began)
        callbacks = [*_callbacks(run, console), elapsed]
        run_dir = _directory(run)
        step = None if run.resumed_from is None else run.resumed_from.step
        # before anything is written: a run whose logger does not start is none that began
        loggers = make_loggers(path, step, settings.logger, settings.logger_options)
        with reporting(loggers, run.config) as report:
            if run_dir is not None:
                _write_beginning(run, run_dir, console)
            metrics = train_and_measure(run, callbacks, loggers, signals)
            report(metrics)
        if run_dir is None:
            return {}
        doubted = doubts_of(metrics, run.data, run.settings.evaluation)
        return finish(
            run.settings,
            run.config,
            run.method,
            metrics,
            run_dir,
            elapsed.seconds,
            console,
            doubted,
        )
    finally:
        os.environ.pop(RUN_DIR_VARIABLE, None)


def _show_again(run: Prepared, console: Console) -> dict[str, Any]:
    """The results of a run that is finished, its weights written again where they are gone."""
    if not run.first:
        return {}
    mend_weights(run.settings, run.method, run.path, run.resumed_from, console)
    return show_finished(run.path, console)


def _callbacks(run: Prepared, console: Console) -> list[Callback]:
    """What is read and shown while the run trains."""
    compares_views = run.method.info.min_views > 1
    callbacks = callbacks_of(run.settings, run.data, run.path, compares_views)
    data, epochs = run.settings.data, run.settings.epochs
    pixels = data.views.pixels(data.image_size, epochs)
    callbacks.append(LiveProgress(Terminal(stderr=True, quiet=console.quiet), pixels))
    if run.resumed_from is not None:
        callbacks.append(LengthenedSchedule(run.settings.epochs, run.tell))
    return callbacks


def _directory(run: Prepared) -> RunDirectory | None:
    """The run directory, with room for the checkpoints; ``None`` on all processes but the first."""
    if not run.first:
        return None
    settings = run.settings
    need_bytes = _least_bytes(run.method, settings.keep_checkpoints)
    return RunDirectory(run.path, settings.resume, settings.overwrite, need_bytes, CONFIG)


def _write_beginning(run: Prepared, run_dir: RunDirectory, console: Console) -> None:
    """Write and say what is trained on what."""
    path = run.path
    if run.longer and run.finished:
        for name in (RESULTS, WEIGHTS_FILE):  # the folder is no finished run until its end
            before = path / name
            if before.is_file():
                own = f"{before.stem}-{run.epochs_before}epochs{before.suffix}"
                before.replace(path / own)
    run_dir.write_config(run.config, run.sources)
    write_json(path / ENVIRONMENT, environment(run.probe.strategy.root_device))
    if run.settings.resume and run.resumed_from is None:
        console.print("There is no checkpoint yet, so the run begins at its first step.")
    header = run.header()
    write_text(path / HEADER, "\n".join(header) + "\n")
    say_lines(console, "\n".join(header))


def _run_directory(settings: PretrainSettings) -> Path:
    """Path of the run directory."""
    default = default_run_dir(settings.method["name"], settings.data.name)
    return given_folder(settings.run_dir) or default


def _least_bytes(method: nn.Module, keep: int) -> int:
    """Weights, momentum, buffers, for each checkpoint that stays and one that is written."""
    weights = sum(p.numel() * p.element_size() for p in method.parameters())
    buffers = sum(b.numel() * b.element_size() for b in method.buffers())
    return (keep + 1) * (2 * weights + buffers)
