"""The folder that a command works in and the results that it leaves there: the same for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erssl.errors import RunError
from erssl.files import write_json
from erssl.protocols.subject import run_of
from erssl.run.directory import CHECKPOINTS, CONFIG, RunDirectory, default_run_dir, make_results
from erssl.run.launch import given_folder
from erssl.settings.evaluation_resume import check_same_settings
from erssl.settings.loggers import LoggerError


def folder_for(run_dir: str | None, *names: str) -> Path:
    """The folder that was named, else ``runs/<names>-<time>``.

    Args:
        run_dir: What was asked for.
        *names: Of the command, what it evaluates and on what.

    Raises:
        ConfigError: If processes that were started together have no folder in common.
    """
    if named := given_folder(run_dir):
        return named
    return default_run_dir(*names)


def open_folder(
    path: Path,
    config: Mapping[str, Any],
    *,
    goes_on: bool,
    overwrite: bool,
    resume_from: str = CONFIG,
    may_change: Sequence[str] = (),
) -> RunDirectory:
    """Make the folder of an evaluation ready, or go on in it.

    Args:
        path: The folder.
        config: What was asked for, fully resolved.
        goes_on: Whether the evaluation that is in it goes on.
        overwrite: Whether to delete the evaluation that is in it.
        resume_from: The file without which there is nothing to go on with.
        may_change: Keys of the command that say where and how it runs, not what it computes.

    Raises:
        ConfigError: If an evaluation that goes on would change.
        RunError: If the folder holds a pretraining, which overwriting would delete, or another
            evaluation, or cannot be written to.
    """
    if run_of(str(path)) is not None:
        raise RunError(
            f"run_dir={path} holds a run of erssl pretrain; name a folder of its own for the "
            "evaluation."
        )
    if path.name == CHECKPOINTS and (path.parent / CONFIG).is_file():
        raise RunError(
            f"run_dir={path} is the folder of checkpoints of a run, which goes with it; name a "
            "folder of its own for the evaluation."
        )
    run_dir = RunDirectory(path, goes_on, overwrite, resume_from=resume_from)
    if goes_on:
        check_same_settings(path / CONFIG, config, may_change)
    return run_dir


def prepare_folder(
    path: Path,
    config: Mapping[str, Any],
    *,
    goes_on: bool,
    overwrite: bool,
    rewrite: bool = False,
    resume_from: str = CONFIG,
    may_change: Sequence[str] = (),
) -> None:
    """Make the folder of an evaluation ready, with its settings in it; see :func:`open_folder`.

    Args:
        path: The folder, which its caller has locked.
        config: What was asked for, fully resolved.
        goes_on: Whether the evaluation that is in it goes on.
        overwrite: Whether to delete the evaluation that is in it.
        rewrite: Whether the settings are written anew where it goes on.
        resume_from: The file without which there is nothing to go on with.
        may_change: Keys of the command that say where and how it runs, not what it computes.
    """
    run_dir = open_folder(
        path,
        config,
        goes_on=goes_on,
        overwrite=overwrite,
        resume_from=resume_from,
        may_change=may_change,
    )
    if rewrite or not goes_on:
        run_dir.write_config(config)


@contextmanager
def undone_without_loggers(folder: Path, goes_on: bool) -> Iterator[None]:
    """Take back what was written of an evaluation whose first training has no logger.

    Args:
        folder: Of the evaluation, which its caller has locked.
        goes_on: Whether it was there before, which then stays.
    """
    try:
        yield
    except LoggerError:
        if not goes_on and not any(folder.glob("*/seed.json")):
            RunDirectory(folder, overwrite=True)
        raise


def leave_results(
    file: Path, *, report: Callable[[dict[str, Any]], None] | None = None, **about: Any
) -> dict[str, Any]:
    """Write the results of a command, after its report: they mark it as finished.

    Args:
        file: Where to write them.
        report: Writes what goes with them.
        **about: Arguments of :func:`erssl.run.directory.make_results`.

    Returns:
        The content of the file.
    """
    results = make_results(**about)
    if report is not None:
        report(results)
    write_json(file, results)
    return results
