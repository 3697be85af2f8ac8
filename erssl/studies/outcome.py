"""What the runs of a study came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from erssl.studies.grid import Axis, Grid, keys_of
from erssl.studies.metrics import value_of

_OF_START = {"data", "backbone", "evaluation", "checkpoint", "experiment"}
_OF_TRAINING = ("data.views", "data.imbalance", "data.pipeline")


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


def untrained_levels(
    grid: Grid, outcomes: Sequence[Outcome], metric: str
) -> dict[tuple[str, ...], list[float]]:
    """Values of a metric before training, in the unit of its label, by images and network.

    Args:
        grid: The runs.
        outcomes: What they came to.
        metric: The metric, such as ``knn_top1``.

    Returns:
        A value of each run that measured it, by its labels of the axes that vary images, network
        or protocol: no labels where none does.
    """
    places = [place for place, axis in enumerate(grid.axes) if is_of_start(axis)]
    levels: dict[tuple[str, ...], dict[str | int, float]] = {}
    for number, each in enumerate(outcomes):
        value = each.metrics.get(f"untrained_{metric}")
        if value is not None:
            labels = tuple(each.labels[place] for place in places)
            runs = levels.setdefault(labels, {})  # a run may stand in several cells
            runs[each.folder or number] = value_of(metric, value)
    return {labels: list(runs.values()) for labels, runs in levels.items()}


def is_of_start(axis: Axis) -> bool:
    """Whether an axis varies what an accuracy before training is of: images, network, protocol."""
    keys = {key for option in axis.options.values() for key in keys_of(option)}
    return any(
        key.partition(".")[0] in _OF_START and not key.startswith(_OF_TRAINING) for key in keys
    )
