"""Runs in the order of a reading that needs no labels, for ``erssl report rank=<reading>``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erssl.errors import ConfigError, DataError
from erssl.escaping import markdown_row
from erssl.evaluation.label_free import READINGS, SPACES, goodness
from erssl.protocols.readings import readings_of
from erssl.run.summary import Summary
from erssl.settings.hints import nearest

RANKED_BY = (*(f"{space}_{name}" for space in SPACES for name in READINGS), "train_loss")


def ranking(summary: Summary, by: str) -> str:
    """Markdown table of the pretrainings, the best by a reading first.

    A run that was not read before is read now, from its last checkpoint and training images.

    Args:
        summary: Results; those of other protocols have no place in the table.
        by: Name of the reading.

    Raises:
        ConfigError: If there is no such reading.
        DataError: If there is no pretraining, or one cannot be read.
    """
    if by not in RANKED_BY:
        raise ConfigError(f"rank={by} is unknown; {nearest(by, RANKED_BY)}")
    rows = [
        (_value(result, folder, by), result, folder)
        for result, folder in zip(summary.results, summary.folders, strict=True)
        if result["protocol"] == "pretrain"
    ]
    if not rows:
        raise DataError(f"rank={by} orders pretrainings, of which there are none here.")
    unread = [folder for value, _, folder in rows if value is None]
    having = [(value, result, folder) for value, result, folder in rows if value is not None]
    having.sort(key=lambda row: -goodness(by, row[0]))
    lines = [markdown_row(("rank", "method", "seed", by, "folder")), "|---|---|---|---|---|"]
    lines += [
        markdown_row((str(place), str(r["method"]), str(r["seed"]), f"{value:.4g}", str(folder)))
        for place, (value, r, folder) in enumerate(having, 1)
    ]
    lines += [markdown_row(("–", "", "", "not finite", str(folder))) for folder in unread]
    return "\n".join(lines)


def _value(result: Mapping[str, Any], folder: Path, by: str) -> float | None:
    if by in result["metrics"]:
        value = float(result["metrics"][by])
        return value if math.isfinite(value) else None
    return readings_of(folder).get(by)
