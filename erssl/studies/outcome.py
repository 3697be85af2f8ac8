"""What the runs of a study came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What one run came to.

    Attributes:
        labels: Its option of each axis.
        seed: Its seed.
        metrics: Values of its ``results.json``; empty where it has none.
        failure: Why it has none although it was tried.
        folder: Name of its run directory.
        version: erssl's version that trained it.
        in_use_by: The process that trains it now, where another one does.
    """

    labels: tuple[str, ...]
    seed: int
    metrics: Mapping[str, float]
    failure: str | None = None
    folder: str = ""
    version: str = ""
    in_use_by: str | None = None
