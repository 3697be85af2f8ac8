"""The numbers of a paper against ours: which of our runs stand beside them, and in which order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from erssl.studies.grid import Grid
from erssl.studies.metrics import is_share, value_of
from erssl.studies.outcome import Outcome
from erssl.studies.plan import Scale
from erssl.studies.published import ROW, Place, Published
from erssl.studies.seeds import mean

_STAND_IN = "knn_top1"
Values = Mapping[tuple[str, ...], Mapping[int, float]]  # of cells, by seed


@dataclass(frozen=True)
class Compared:
    """A column of a paper beside a column of ours.

    Attributes:
        column: Name of the paper's column.
        place: What of ours is beside it, by the labels of the scale; ``None`` where nothing is.
        metric: Our metric.
        ours: A value for each seed, by the paper's label of a row.
        left_out: Rows with a number in the paper and none here.
        rows: How many have a number on both sides.
        tau: Kendall's tau-b of these; ``None`` where one side has no order.
        best: The best of these in the paper, and here; several where they are equal.
        reason: Why the two cannot be compared.
    """

    column: str
    place: Place | None
    metric: str
    ours: Mapping[str, tuple[float, ...]]
    left_out: tuple[str, ...] = ()
    rows: int = 0
    tau: float | None = None
    best: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    reason: str = ""


def compare(
    table: Published, scale: Scale, grid: Grid, outcomes: Sequence[Outcome]
) -> list[Compared]:
    """Compare each column of a table with everything of ours that it is beside."""
    metric = _metric(table, outcomes)
    values: dict[tuple[str, ...], dict[int, float]] = {}
    for each in outcomes:
        if metric in each.metrics:
            values.setdefault(each.labels, {})[each.seed] = value_of(metric, each.metrics[metric])
    compared = []
    for number, column in enumerate(table.columns):
        if not column.places:
            compared.append(Compared(column.name, None, metric, {}, reason=column.reason))
        for of_paper in column.places:
            place = table.place(of_paper, scale.name)
            if reason := _no_place(of_paper, table, scale, grid):
                compared.append(Compared(column.name, None, metric, {}, reason=reason))
                continue
            ours = {
                row: tuple(_over_seeds(place.kind, table.cells(of_paper, row, scale.name), values))
                for row in table.rows
            }
            paper = {row: row_values[number] for row, row_values in table.rows.items()}
            compared.append(_ordered(Compared(column.name, place, metric, ours), paper))
    return compared


def _metric(table: Published, outcomes: Sequence[Outcome]) -> str:
    """The paper's metric, or kNN accuracy for an accuracy that a finished run lacks."""
    done = [each.metrics for each in outcomes if each.metrics]
    lacking = not all(table.metric in metrics for metrics in done)
    return _STAND_IN if lacking and is_share(table.metric) else table.metric


def _no_place(of_paper: Place, table: Published, scale: Scale, grid: Grid) -> str:
    """Why a place is none of this grid; empty where it is one."""
    place = table.place(of_paper, scale.name)
    axes = len(grid.axes)
    if axes != (1 if ROW in place.option else 2):
        return f"the study has {axes} {'axis' if axes == 1 else 'axes'} at scale {scale.name}"
    for option in (place.option, place.base):
        if option and ROW not in option and option not in grid.axes[-1].options:
            return f"there is no {grid.axes[-1].name} {option} at scale {scale.name}"
    cells = {cell.labels for cell in grid.cells}
    if not any(cells.issuperset(table.cells(of_paper, row, scale.name)) for row in table.rows):
        return f"none of its rows is run at scale {scale.name}"
    return ""


def _over_seeds(kind: str, cells: Sequence[tuple[str, ...]], values: Values) -> Iterator[float]:
    """A value for each seed; a difference is of two runs of one seed."""
    option, *base = (values.get(labels, {}) for labels in cells)
    for seed, value in option.items():
        if not base:
            yield value
        elif seed in base[0]:
            yield base[0][seed] - value if kind == "drop" else value - base[0][seed]


def _ordered(compared: Compared, paper: Mapping[str, float | None]) -> Compared:
    """Add how the order of the rows that have a number on both sides is to the paper's."""
    from scipy.stats import kendalltau

    means = {row: mean(values) for row, values in compared.ours.items() if values}
    theirs = {row: value for row, value in paper.items() if value is not None}
    rows = [row for row in theirs if math.isfinite(means.get(row, math.nan))]
    left_out = tuple(row for row in theirs if row not in rows)
    compared = replace(compared, left_out=left_out, rows=len(rows))
    if len(rows) < 2:
        both = f"only {rows[0]} has" if rows else "none of its rows has"
        return replace(compared, reason=f"{both} a number in the paper and here")
    tau = float(kendalltau([theirs[row] for row in rows], [means[row] for row in rows]).statistic)
    best = min if compared.place and compared.place.kind == "drop" else max
    in_paper, here = (
        tuple(row for row in rows if side[row] == best(side[each] for each in rows))
        for side in (theirs, means)
    )
    return replace(compared, tau=tau if math.isfinite(tau) else None, best=(in_paper, here))
