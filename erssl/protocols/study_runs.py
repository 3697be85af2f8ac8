"""The runs of a study: trained one after another or at once, and waited for where others do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from erssl.errors import ErsslError
from erssl.protocols.readings import kept_linear, kept_readings, linear_of, readings_of
from erssl.run.checkpoint_files import has_checkpoint
from erssl.run.console import say
from erssl.run.directory import CONFIG, LAST_CHECKPOINT, RESULTS, only_begun
from erssl.run.launch import Ended, count_jobs, launch, run_one
from erssl.run.lock import holder_of
from erssl.run.summary import read_results
from erssl.run.waiting import wait_for_one
from erssl.settings.pretrain_options import PretrainSettings
from erssl.settings.study import StudySettings
from erssl.studies.grid import Cell
from erssl.studies.plan import LINEAR
from erssl.studies.store import (
    IMAGES,
    Plan,
    damage_of,
    failure_of,
    holds_run,
    is_finished,
    is_of_another,
    mark_failure,
    mark_finished,
    mark_planned,
)


@dataclass(frozen=True)
class Planned:
    """A run of a study and where it lies in the store.

    Attributes:
        cell: Its place in the grid.
        settings: What it is asked to be.
        path: Its run directory.
        plan: By which the store knows it.
        linear: Whether its linear accuracy is wanted, also where it ended without one.
    """

    cell: Cell
    settings: PretrainSettings
    path: Path
    plan: Plan
    linear: bool = False

    @property
    def failure(self) -> str | None:
        """Why it ended without results, if it did."""
        return None if is_finished(self.path) else failure_of(self.path)


def missing_of(runs: Sequence[Planned], retry: bool) -> list[Planned]:
    """Runs to be trained, each once."""
    wanted = {
        each.path: each
        for each in runs
        if not (is_finished(each.path) or is_of_another(each.path))
        if retry or each.failure is None
    }
    return list(wanted.values())


def train_all(
    runs: Sequence[Planned], settings: StudySettings, launcher: Sequence[str], console: Console
) -> None:
    """Train the runs; those that another process has in use come last, when it has let them go.

    Such as a process that a study had started which was killed, and which writes its checkpoint
    now, or one of another study with the same store. What is in use for longer than
    :func:`wait_for_one` waits is left to the process that has it.
    """
    left = list(runs)
    while left and wait_for_one([each.path for each in left], console):
        free = [each for each in left if not holder_of(each.path)]
        refused = _train(free, settings, launcher, console)
        left = [each for each in left if each not in free or each in refused]


def _train(
    runs: Sequence[Planned], settings: StudySettings, launcher: Sequence[str], console: Console
) -> list[Planned]:
    """Train runs that are not in use, and give those that came to be meanwhile."""
    refused: list[Planned] = []

    def end(run: Planned, ended: Ended) -> None:
        if is_finished(run.path):
            _keep_readings(run, console)
        elif ended.was_refused:
            refused.append(run)
        elif not ended.was_stopped:  # what was stopped goes on the next time
            mark_failure(run.path, ended.sentence or f"it ended with status {ended.status}.")

    jobs = count_jobs(settings.jobs)
    if launcher or jobs > 1:
        unfinished = [each for each in runs if not _is_there(each, console)]
        commands = [_command(each) for each in unfinished]
        folder = settings.folder / "launch"
        ends = launch(commands, jobs, launcher, folder) if commands else []
        for each, ended in zip(unfinished, ends, strict=True):
            end(each, ended)
        return refused
    for number, each in enumerate(runs, 1):
        if not _is_there(each, console):
            say(console, f"\nRun {number} of {len(runs)}: {each.cell.name}")
            end(each, run_one(_command(each)))
    return refused


def _is_there(run: Planned, console: Console) -> bool:
    """Whether another process has finished a run since the study began; it is read then."""
    if is_finished(run.path):
        _keep_readings(run, console)
        return True
    return False


def _command(run: Planned) -> list[str]:
    """The pretraining, which goes on where it can and deletes no run that came to be meanwhile."""
    goes_on = (run.path / CONFIG).is_file() and has_checkpoint(run.path / LAST_CHECKPOINT)
    in_the_way = holds_run(run.path) and not only_begun(run.path)
    if damage_of(run.path):  # of a run that is tried again
        (run.path / RESULTS).unlink()
    mark_planned(run.path, run.plan)
    state = [f"resume={goes_on}".lower(), f"overwrite={in_the_way and not goes_on}".lower()]
    return ["pretrain", *run.cell.overrides, f"run_dir={run.path}", *state]


def complete_all(runs: Sequence[Planned], console: Console) -> None:
    """Read what finished runs lack: those of a study that was killed then, or trained by hand."""
    for each in {run.path: run for run in runs if is_finished(run.path)}.values():
        there = kept_readings(each.path) is not None and (each.path / IMAGES).is_file()
        if not there or _lacks_linear(each):
            _keep_readings(each, console)


def _lacks_linear(run: Planned) -> bool:
    """Whether its linear accuracy is wanted and has not been measured."""
    measured = {**kept_linear(run.path), **read_results(run.path / RESULTS)["metrics"]}
    return run.linear and LINEAR not in measured


def _keep_readings(run: Planned, console: Console) -> None:
    try:
        readings_of(run.path)
        if _lacks_linear(run):
            linear_of(run.path)
    except ErsslError as error:
        say(console, f"No readings of {run.path.name}: {error}")
    mark_finished(run.path, run.plan)  # the last, so that it says that this was done
