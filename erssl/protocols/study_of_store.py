"""A study of the runs that a store holds: which reading without labels predicts their accuracy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from erssl.data.places import images_digest
from erssl.errors import DataError, ErsslError
from erssl.files import write_json, write_text
from erssl.paths import user_path
from erssl.protocols.readings import kept_readings, readings_of
from erssl.run.console import say, say_lines
from erssl.run.directory import CONFIG, RESULTS, environment
from erssl.run.lock import locked
from erssl.run.result import Result
from erssl.run.summary import read_results
from erssl.settings.pretrain import resolved_config
from erssl.settings.study import StudySettings
from erssl.studies.label_free_page import label_free_page, plot_taus
from erssl.studies.page import FIGURE, PAGE, RECORD
from erssl.studies.plan import Scale, Study
from erssl.studies.ranking import ReadRun, rank_readings
from erssl.studies.store import IMAGES

_LOGGED = ("train_loss", "train_nats_below_uniform", "train_alignment")  # while training
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
        ErsslError: If there are not three runs with an accuracy.
    """
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
        left_out = dict.fromkeys(later, "it is read the next time")
        runs = []
        for folder in folders:
            if folder in left_out:
                continue
            try:
                runs.append(_read(folder, overrides))
            except ErsslError as error:
                left_out[folder] = " ".join(str(error).split())
        if len(runs) < _LEAST:
            said = f" ({next(iter(left_out.values()))})" if left_out else ""
            raise DataError(
                f"The study {study.name} orders runs and {store} has {len(runs)} finished ones "
                f"with kNN accuracy that can be read{said}; train those of other studies first."
            )
        return _write(study, scale, settings, runs, left_out, console)


def _read(folder: Path, overrides: Sequence[str]) -> ReadRun:
    results = read_results(folder / RESULTS)
    if results["protocol"] != "pretrain" or "knn_top1" not in results["metrics"]:
        raise DataError(f"{folder} is no pretraining with kNN accuracy.")
    metrics = results["metrics"]
    logged = {name: metrics[name] for name in _LOGGED if name in metrics}
    readings = {**readings_of(folder, overrides), **logged}
    method = str(results["method"])
    return ReadRun(folder.name, method, _setting(folder), float(metrics["knn_top1"]), readings)


def _setting(folder: Path) -> str:
    """What an accuracy was measured on and of: images, their size, network and neighbours."""
    config = resolved_config(folder / CONFIG)
    try:
        images = json.loads((folder / IMAGES).read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        images = images_digest(config["data"])
    evaluation = config["evaluation"]
    parts: list[Any] = [images, config["data"]["image_size"], config["backbone"]]
    parts += [evaluation["knn_k"], evaluation["knn_temperature"]]
    return json.dumps(parts, sort_keys=True, default=str)


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
