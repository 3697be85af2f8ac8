"""Runs in the order of a reading that needs no labels, for ``erssl report rank=<reading>``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erssl.data.places import is_place
from erssl.errors import ConfigError, DataError, ErsslError
from erssl.escaping import markdown_row, markdown_text
from erssl.evaluation.label_free import READINGS, SPACES, better, goodness
from erssl.layers import flat
from erssl.protocols.read_runs import LOGGED, read_run
from erssl.run.directory import CONFIG
from erssl.run.summary import Summary
from erssl.settings.hints import nearest
from erssl.settings.pretrain import resolved_config
from erssl.settings.resume import may_change
from erssl.studies.ranking import CLID, ReadRun, clid

_IMAGES = "images"  # of a setting: their digest
RANKED_BY = (*(f"{space}_{name}" for space in SPACES for name in (*READINGS, CLID)), *LOGGED)


@dataclass(frozen=True)
class Placed:
    """A run that is to be put in order.

    Attributes:
        folder: Its directory.
        seed: Its seed.
        run: What was read of it.
        config: Its resolved settings by dotted key.
    """

    folder: Path
    seed: Any
    run: ReadRun
    config: Mapping[str, Any]


def ranking(summary: Summary, by: str) -> str:
    """Markdown of the pretrainings, the best by a reading first, a table for each setting.

    A setting is images, their size, network and neighbours: of runs of two, no reading says which
    is better. A run that was not read before is read now, from its last checkpoint and training
    images; one that cannot be read is named with the reason.

    Args:
        summary: Results; those of other protocols have no place in the tables.
        by: Name of the reading.

    Raises:
        ConfigError: If there is no such reading.
        DataError: If there is no pretraining, or none can be read.
    """
    if by not in RANKED_BY:
        raise ConfigError(f"rank={by} is unknown; {nearest(by, RANKED_BY)}")
    pairs = zip(summary.results, summary.folders, strict=True)
    pretrained = [(r["seed"], folder) for r, folder in pairs if r["protocol"] == "pretrain"]
    if not pretrained:
        raise DataError(f"rank={by} orders pretrainings, of which there are none here.")
    placed: list[Placed] = []
    left_out: dict[Path, str] = {}
    for seed, folder in pretrained:
        try:
            run = read_run(folder, logged_only=by in LOGGED)
            config = flat(resolved_config(folder / CONFIG))
        except ErsslError as error:
            left_out[folder] = " ".join(str(error).split())
            continue
        placed.append(Placed(folder, seed, run, config))
    if not placed:
        reason = next(iter(left_out.values()))
        raise DataError(f"rank={by} cannot read any of the {len(left_out)} pretrainings: {reason}")
    settings = list(dict.fromkeys(each.run.setting for each in placed))
    lines: list[str] = []
    for setting, title in zip(settings, _titles(settings), strict=True):
        lines += [f"{markdown_text(title)}:", ""] if title else []
        lines += [*_table([each for each in placed if each.run.setting == setting], by), ""]
    lines.append(
        f"{better(by)} Only runs of one setting (images, network, neighbours) are compared."
    )
    if left_out:
        lines += ["", "Left out:", ""]
        lines += [f"- {markdown_text(f'{folder}: {why}')}" for folder, why in left_out.items()]
    return "\n".join(lines)


def _table(placed: Sequence[Placed], by: str) -> list[str]:
    """Rows of one setting; runs whose reading is missing or not finite come last."""
    runs = [each.run for each in placed]
    values = [{**run.readings, **clid(runs, run)}.get(by, math.nan) for run in runs]
    order = sorted(range(len(runs)), key=lambda i: _last_if_not_finite(by, values[i]))
    told = [_told_apart(each, placed) for each in placed]
    heads = ["rank", "method", *(["settings"] if any(told) else []), "seed", by, "folder"]
    lines = [markdown_row(heads), "|" + "---|" * len(heads)]
    for place, i in enumerate(order, 1):
        known = math.isfinite(values[i])
        cells = [str(place) if known else "–", runs[i].method, *([told[i]] if any(told) else [])]
        cells += [str(placed[i].seed), f"{values[i]:.4g}" if known else "none"]
        lines.append(markdown_row([*cells, str(placed[i].folder)]))
    return lines


def _last_if_not_finite(by: str, value: float) -> float:
    return -goodness(by, value) if math.isfinite(value) else math.inf


def _told_apart(each: Placed, placed: Sequence[Placed]) -> str:
    """Settings of a run that differ between the runs, those of its method between its own."""
    peers = [other for other in placed if other.run.method == each.run.method]
    parts = []
    for key, value in each.config.items():
        others = peers if key.partition(".")[0] == "method" else placed
        if _counts(key) and len({_text(other.config.get(key)) for other in others}) > 1:
            parts.append(f"{key}={_text(value)}")
    return " ".join(parts)


def _counts(key: str) -> bool:
    return not (key == "seed" or may_change(key) or is_place(key))


def _titles(settings: Sequence[str]) -> list[str]:
    """What each setting has that another has not; nothing where there is one alone."""
    parts = [flat(json.loads(setting)) for setting in settings]
    keys = list(dict.fromkeys(key for each in parts for key in each if key != _IMAGES))
    differ = [key for key in keys if len({_text(each.get(key)) for each in parts}) > 1]
    titles = [", ".join(f"{key}={_text(each.get(key))}" for key in differ) for each in parts]
    if len(set(titles)) == len(titles):
        return titles
    digests = [f"images {each[_IMAGES][:12]}" for each in parts]
    return [", ".join(filter(None, pair)) for pair in zip(titles, digests, strict=True)]


def _text(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
