"""A study of the runs that a store holds: which reading without labels predicts their accuracy."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from erssl.data.places import is_place
from erssl.data.registry import available_datasets, get_dataset
from erssl.errors import ConfigError, DataError, ErsslError
from erssl.files import write_json, write_text
from erssl.paths import user_path
from erssl.protocols.read_runs import read_run
from erssl.protocols.readings import kept_readings
from erssl.run.console import say, say_lines
from erssl.run.directory import RESULTS, environment
from erssl.run.lock import locked
from erssl.run.plots import remove_figure
from erssl.run.result import Result
from erssl.settings.study import StudySettings
from erssl.studies.label_free_page import label_free_page, plot_taus
from erssl.studies.page import FIGURE, PAGE, RECORD
from erssl.studies.plan import Scale, Study
from erssl.studies.ranking import ReadRun, rank_readings

_LEAST = 3


def study_store(
    study: Study, scale: Scale, settings: StudySettings, overrides: Sequence[str], console: Console
) -> Result:
    """Read every finished run of the store, and write the page.

    Args:
        study: The study.
        scale: Its scale, which says which runs it is of.
        settings: Of the command; ``only`` bounds how many runs are read that were not before.
        overrides: Where the images are, if no longer where the runs had them.
        console: Where it is said.

    Raises:
        ConfigError: If something else is said, which only a training would heed.
        ErsslError: If there are not three runs with an accuracy.
    """
    _refuse_what_trains(study, settings, overrides)
    store = user_path(settings.store)
    folders = [file.parent for file in sorted(store.glob(f"*/{RESULTS}"))]
    unread = [folder for folder in folders if kept_readings(folder) is None]
    if settings.dry_run:
        say(
            console, f"{len(folders)} finished runs in {store}, {len(unread)} of them not read yet."
        )
        return Result(settings.folder, metrics={"missing": len(unread)})
    with locked(settings.folder, "output"):
        later = [] if settings.only is None else unread[settings.only :]
        runs, left_out = _read_all([f for f in folders if f not in later], overrides)
        left_out |= dict.fromkeys(later, "it is read the next time")
        if len(runs) < _LEAST:
            said = f" ({next(iter(left_out.values()))})" if left_out else ""
            raise DataError(
                f"The study {study.name} orders runs and {store} has {len(runs)} finished ones "
                f"with kNN accuracy that can be read{said}; train those of other studies first."
            )
        return _write(study, scale, settings, runs, left_out, console)


def _refuse_what_trains(study: Study, settings: StudySettings, overrides: Sequence[str]) -> None:
    """Refuse all that only a training would heed.

    Raises:
        ConfigError: Naming the first.
    """
    places = {f"data.{o}" for name in available_datasets() for o in get_dataset(name).own_options()}
    known = set(filter(is_place, places))
    said = [override for override in overrides if override.partition("=")[0] not in known]
    said += [f"seeds={settings.seeds}"] if settings.seeds is not None else []
    said += [f"jobs={settings.jobs}"] if settings.jobs is not None else []
    said += ["retry=true"] if settings.retry else []
    if said:
        raise ConfigError(
            f"The study {study.name} reads runs that are there and trains none, so that it has no "
            f"use for {said[0]}; leave it out. Where the images of the runs are now can be said "
            "(data.root=, data.train_dir=)."
        )


def _read_all(
    folders: Sequence[Path], places: Sequence[str]
) -> tuple[list[ReadRun], dict[Path, str]]:
    """The runs that count, each once, and why others do not.

    A copy of a run would weigh it twice, as would a second training of equal settings.
    """
    runs: list[ReadRun] = []
    left_out: dict[Path, str] = {}
    known: dict[str, str] = {}
    for folder in folders:
        try:
            run = read_run(folder, places)
            digest = hashlib.sha256((folder / RESULTS).read_bytes()).hexdigest()
        except (ErsslError, OSError) as error:
            left_out[folder] = " ".join(str(error).split())
            continue
        if not math.isfinite(run.accuracy):
            left_out[folder] = "it has no kNN accuracy, or one that is not finite"
        elif digest in known:
            left_out[folder] = f"it is a copy of {known[digest]}, which counts once"
        elif run.key in known:
            left_out[folder] = f"it has the settings of {known[run.key]}, which count once"
        else:
            runs.append(run)
            known |= dict.fromkeys((digest, run.key), folder.name)
    return runs, left_out


def _write(
    study: Study,
    scale: Scale,
    settings: StudySettings,
    runs: Sequence[ReadRun],
    left_out: dict[Path, str],
    console: Console,
) -> Result:
    folder = settings.folder
    ranked = rank_readings(runs)
    folder.mkdir(parents=True, exist_ok=True)
    remove_figure(folder / FIGURE)
    plot_taus(ranked, folder / FIGURE, settings.plots)
    reasons = {path.name: reason for path, reason in left_out.items()}
    text = label_free_page(study, scale, ranked, runs, reasons, FIGURE)
    write_text(folder / PAGE, text)
    content = {
        "study": study.name,
        "question": study.question,
        "source": study.source,
        "scale": {"name": scale.name, "about": scale.about, "overrides": scale.overrides},
        "readings": [asdict(each) for each in ranked],
        "runs": [asdict(each) for each in runs],
        "left_out": reasons,
        "environment": environment(),
    }
    write_json(folder / RECORD, content)
    say_lines(console, f"\n{text}")
    say(console, f"See {folder}.")
    return Result(folder, results=content)
