"""``erssl study``: a grid of pretrainings from one store, and the page that it answers by."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from erssl.errors import ConfigError, RunError
from erssl.files import write_json, write_text
from erssl.protocols.readings import kept_linear, kept_readings
from erssl.protocols.step_time import seconds_of_run
from erssl.protocols.study_checks import check_before_training
from erssl.protocols.study_of_store import study_store
from erssl.protocols.study_runs import Planned, complete_all, missing_of, train_all
from erssl.protocols.study_settings import settings_paragraph
from erssl.protocols.study_transfer import Transfer, read_study_transfer, split_overrides
from erssl.run.console import say, say_lines
from erssl.run.directory import RESULTS, environment
from erssl.run.launch import count_jobs
from erssl.run.lock import NAME as LOCK
from erssl.run.lock import holder_of, locked
from erssl.run.plots import figure_files, remove_figure
from erssl.run.result import Result
from erssl.run.summary import read_results
from erssl.settings.arguments import launcher_overrides
from erssl.settings.pretrain import read_settings
from erssl.settings.study import StudySettings, read_study_settings
from erssl.settings.trainer import AUTO
from erssl.studies.figure import plot_study
from erssl.studies.grid import Cell, Grid
from erssl.studies.outcome import Outcome
from erssl.studies.page import FIGURE, PAGE, RECORD, page, record
from erssl.studies.plan import Scale, Study, read_study
from erssl.studies.store import (
    FITTED,
    Plan,
    RunStore,
    diverged,
    inputs_digest,
    is_finished,
    key_of,
)
from erssl.studies.study_files import available_studies


def run(overrides: Sequence[str], console: Console) -> Result:
    """Train what the store lacks of a study, and write its page.

    Raises:
        ErsslError: If study, scale or a run of the grid cannot be; nothing has been trained then.
    """
    launcher = launcher_overrides(overrides)
    settings, further = read_study_settings([o for o in overrides if o not in launcher])
    if settings.study is None:
        raise ConfigError(
            f"erssl study needs the name of a study; choose from: {', '.join(available_studies())}."
        )
    study = read_study(settings.study)
    scale = study.scale(settings.scale or study.default_scale)
    settings = dataclasses.replace(settings, scale=scale.name)
    held = _held_in(settings.folder, study, scale)
    further, transfer = _transfers(study, further)
    if transfer is not None:
        study = dataclasses.replace(study, metrics=(*transfer.metric_names, *study.metrics))
    if study.reads_store:
        return study_store(study, scale, settings, further, console)
    grid = study.grid(scale, further, settings.seeds or ())
    if transfer is not None:
        grid = grid.with_given(transfer.that_counts)
    _check_changed(settings.folder, held, grid)
    store = RunStore(settings.store)
    for path, reason in store.unread.items():
        say(console, f"{path} is passed over: {reason}")
    runs = [_planned(cell, store, study.linear) for cell in grid.cells]
    if settings.dry_run:
        return _tell(runs, settings, study, console)
    with locked(settings.folder, "output"):
        missing = missing_of(runs, settings.retry)[: settings.only]
        if transfer is not None and settings.only != 0:
            transfer.check_images([each.path for each in runs])
        if missing:
            check_before_training(missing)
            there = sum(is_finished(path) for path in {each.path for each in runs})
            say(console, f"{there} of {len({each.path for each in runs})} runs are there.")
        train_all(missing, settings, launcher, console)
        if settings.only != 0:
            complete_all(runs, console)
        if transfer is not None and settings.only != 0:
            finished = dict.fromkeys(each.path for each in runs if is_finished(each.path))
            transfer.run([path for path in finished if transfer.missing(path)], console)
        return _write(study, scale, grid, runs, settings, transfer, console)


def _transfers(study: Study, further: list[str]) -> tuple[list[str], Transfer | None]:
    """Overrides of the runs, and the transfers of a study that has some."""
    if study.transfer is None:
        return further, None
    own, rest = split_overrides(further)
    return rest, read_study_transfer(study.transfer, own)


def _planned(cell: Cell, store: RunStore, linear: bool = False) -> Planned:
    """A run of the grid, checked as ``erssl pretrain`` checks it."""
    try:
        settings, config = read_settings(list(cell.overrides))
    except ConfigError as error:
        raise ConfigError(f"The run {cell.name} cannot be: {error}") from error
    if settings.trainer.get("precision") == AUTO:
        raise ConfigError(
            f"The run {cell.name} has trainer.precision=auto, which may come to something else on "
            "another machine, and the runs of a study are compared; write 32-true or bf16-mixed."
        )
    digest = inputs_digest(config)
    key = key_of(config, digest)
    plan = Plan(key, key_of(config, digest, FITTED), digest)
    return Planned(cell, settings, store.place(key, settings.method["name"]), plan, linear)


def _write(
    study: Study,
    scale: Scale,
    grid: Grid,
    runs: Sequence[Planned],
    settings: StudySettings,
    transfer: Transfer | None,
    console: Console,
) -> Result:
    folder = settings.folder
    outcomes = [_outcome(each, transfer) for each in runs]
    folder.mkdir(parents=True, exist_ok=True)
    remove_figure(folder / FIGURE)
    drawn = plot_study(grid, outcomes, study.metrics, folder / FIGURE, settings.plots)
    surroundings = environment()
    said = settings_paragraph([each.settings for each in runs], surroundings)
    text = page(study, scale, grid, outcomes, FIGURE if drawn else None, said)
    write_text(folder / PAGE, text)
    content = record(study, scale, grid, outcomes)
    content |= {"given": sorted(grid.that_counts), "environment": surroundings}
    write_json(folder / RECORD, content)
    say_lines(console, f"\n{text}")
    say(console, f"See {folder}.")
    return Result(folder, results=content)


def _outcome(run: Planned, transfer: Transfer | None = None) -> Outcome:
    labels, seed = run.cell.labels, run.cell.seed
    if not is_finished(run.path):
        user = holder_of(run.path)
        failure = None if user else run.failure
        return Outcome(labels, seed, {}, failure, run.path.name, in_use_by=user)
    results = read_results(run.path / RESULTS)
    packages = results["environment"].get("packages")
    version = str(packages.get("erssl", "")) if isinstance(packages, dict) else ""
    if diverged(results["metrics"]):
        reason = f"it diverged: its last loss is {results['metrics']['train_loss']}"
        return Outcome(labels, seed, {}, reason, run.path.name, version)
    metrics = {**(kept_readings(run.path) or {}), **results["metrics"]}
    metrics |= kept_linear(run.path) if run.linear else {}  # that of a few runs is no column
    metrics |= {} if transfer is None else transfer.metrics(run.path)
    if isinstance(seconds := results.get("wall_seconds"), int | float):
        metrics["wall_seconds"] = seconds
    return Outcome(labels, seed, metrics, None, run.path.name, version)


def _tell(
    runs: Sequence[Planned], settings: StudySettings, study: Study, console: Console
) -> Result:
    """Print the runs and how long those take that are missing."""
    missing = missing_of(runs, settings.retry)
    began = time.perf_counter()
    known: dict[str, float] = {}
    total = sum(seconds_of_run(each.settings, known) for each in missing)  # refuses wrong images
    measured = time.perf_counter() - began
    for each in runs:
        state = "finished" if is_finished(each.path) else each.failure or "missing"
        say(console, f"{each.cell.name}: {state} ({each.path})")
    jobs = count_jobs(settings.jobs)
    say(
        console,
        f"{len(missing)} of {len(runs)} runs of {study.name} are missing: about "
        f"{_duration(total / jobs)} with {jobs} at once, by a step of each kind measured on "
        f"this machine ({measured:.0f} s), without loading and evaluation.",
    )
    return Result(settings.folder, metrics={"missing": len(missing), "seconds": total / jobs})


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _held_in(folder: Path, study: Study, scale: Scale) -> dict[str, Any]:
    """The record of this study that a folder holds; empty where there is none yet.

    Raises:
        RunError: If it holds something else.
    """
    if not folder.exists():
        return {}
    if not folder.is_dir():
        raise RunError(f"output={folder} is no folder; name another.")
    file = folder / RECORD
    if not file.is_file():
        begun = {"launch", LOCK, PAGE, *figure_files(folder / FIGURE)}  # stopped before its record
        if any(entry.name not in begun for entry in folder.iterdir()):
            raise RunError(f"output={folder} holds something else than a study; name another.")
        return {}
    try:
        held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        name, size = held["study"], held["scale"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file} cannot be read as the record of a study ({error}); delete it, or name "
            "another output."
        ) from error
    if (name, size) != (study.name, scale.name):
        raise RunError(
            f"output={folder} holds the study {name} at scale {size}; name another output for "
            f"{study.name} at scale {scale.name}."
        )
    return held


def _check_changed(folder: Path, held: dict[str, Any], grid: Grid) -> None:
    """Refuse to write over the page of the same study with other settings.

    Raises:
        RunError: If what the page was made with computes something else.
    """
    now, before = grid.that_counts, set(held.get("given", grid.that_counts))
    if before != now:
        raise RunError(
            f"output={folder} holds this study with {', '.join(sorted(before)) or 'nothing'} "
            f"changed, and this is with {', '.join(sorted(now)) or 'nothing'}; name another output."
        )
