"""The figure of a study: each metric over the last axis, a series for each row of its tables.

Options that are numbers in order are joined by a line; others are marked alone, and those of long
names are written down the side. What failed, and what is not finite, is said at its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from erssl.run.plots import MARKERS, PALETTE, Plots, plain, save_figure, shortened
from erssl.studies.figure_panel import LABEL, SHORT, Layout, Series, draw_panel, write_ticks
from erssl.studies.grid import Grid
from erssl.studies.metrics import title_of
from erssl.studies.outcome import Outcome

_PANELS = 4  # metrics at most
_LEGEND = 4  # names in a line below the panels at most
_TITLE = 9  # characters of a title for each inch of its panel
_TURNED = 12  # characters that fit below a tick of a number, turned
_TOGETHER = 9  # series in one panel that can be told apart
# Blue, vermilion, green, purple, black: the orange and the sky blue are too near to the first two.
_COLOURS = (*PALETTE[:4], PALETTE[6])
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_NUMBER = re.compile(r"[-+−]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?", re.IGNORECASE)
Labels = tuple[str, ...]


def plot_study(
    grid: Grid,
    outcomes: Sequence[Outcome],
    metrics: Sequence[str],
    path: Path,
    plots: Plots = "png",
) -> bool:
    """Draw what the runs came to.

    One panel a metric, over the options of the last axis, with a series for each combination of
    the others; of more than nine combinations, a line of panels for each option of the first axis.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    drawn = [m for m in metrics if any(m in each.metrics for each in outcomes)][:_PANELS]
    if not drawn:
        return False
    layout = _layout(list(grid.axes[-1].options))
    rows = list(_rows(grid, outcomes))
    wide, high, side = _sizes(layout, max(len(row) for _, row in rows))
    names = list(dict.fromkeys(series.name for _, row in rows for series in row))
    width = wide * len(drawn) + side
    columns = max(1, min(_LEGEND, int(width / (0.6 + 0.078 * max(map(len, names))))))
    below = 0.18 * (1 + math.ceil(len(names) / columns)) if len(names) > 1 else 0.0
    figure = Figure(figsize=(width, high * len(rows) + below), dpi=110, layout="constrained")
    panels = figure.subplots(
        len(rows),
        len(drawn),
        squeeze=False,
        sharex="col" if layout.sideways else False,
        sharey=False if layout.sideways else "col",
    )
    for (name, row), axes_of_row in zip(rows, panels, strict=True):
        for metric, axes in zip(drawn, axes_of_row, strict=True):
            draw_panel(axes, grid, outcomes, metric, row, layout)
            write_ticks(axes, layout, grid.axes[-1].name, named=axes is axes_of_row[0])
        if name:
            axes_of_row[0].set_ylabel(plain(shortened(name, LABEL)), fontsize=9)
    for metric, axes in zip(drawn, panels[0], strict=True):
        title = plain(shortened(title_of(metric), int(_TITLE * wide)))
        axes.set_title(title, fontsize=10)
    if len(names) > 1:
        handles = {h.get_label(): h for axes in panels[:, 0] for h in axes.lines}
        varied = grid.axes[1 if len(rows) > 1 else 0 : -1]
        figure.legend(
            [handles[name] for name in names],
            names,
            title=_label(tuple(axis.name for axis in varied)),
            loc="outside lower center",
            ncols=columns,
            fontsize=8,
            title_fontsize=8,
        )
    save_figure(figure, path, plots)
    return True


def _layout(options: Sequence[str]) -> Layout:
    """Join options that are numbers in order; write long names at the side."""
    matches = [_NUMBER.match(option) for option in options]
    numbers = [float(m.group().replace("−", "-").replace(",", "")) for m in matches if m]
    steps = {after > before for before, after in pairwise(numbers)}
    joined = len(numbers) == len(options) and len(set(numbers)) == len(numbers) and len(steps) == 1
    longest = max(map(len, options))
    sideways = longest > (_TURNED if joined else SHORT)
    return Layout({option: place for place, option in enumerate(options)}, joined, sideways)


def _sizes(layout: Layout, series: int) -> tuple[float, float, float]:
    """Inches of a panel's width and height, and of the names beside the first."""
    count, longest = len(layout.options), min(LABEL, max(map(len, layout.options)))
    if layout.sideways:
        return 3.2, max(2.6, 1.1 + max(0.3, 0.1 * series) * count), 0.075 * longest
    return max(3.4, 0.42 * count), 3.4, 0.0


def _rows(grid: Grid, outcomes: Sequence[Outcome]) -> Iterator[tuple[str, list[Series]]]:
    """The lines of panels: the name of each, and its series."""
    tried = {each.labels[:-1] for each in outcomes if each.metrics or each.failure}
    *down, _ = grid.axes
    every = [labels for labels in product(*(axis.options for axis in down)) if labels in tried]
    if len(every) <= _TOGETHER or len(down) < 2:
        grouped = len(down) > 1 and len(down[0].options) <= len(_COLOURS)
        yield "", [_series(labels, n, grid, grouped) for n, labels in enumerate(every)]
        return
    for first in down[0].options:
        row = [labels for labels in every if labels[0] == first]
        if row:
            yield first, [Series(x, _label(x[1:]), _style(n)) for n, x in enumerate(row)]


def _series(labels: Labels, number: int, grid: Grid, grouped: bool) -> Series:
    """A series; its colour is that of its option of the first axis, where there are several."""
    if not grouped:
        return Series(labels, _label(labels), _style(number))
    first, *rest = grid.axes[:-1]
    others = list(product(*(axis.options for axis in rest)))
    colour, other = list(first.options).index(labels[0]), others.index(labels[1:])
    return Series(labels, _label(labels), _style(other, colour, other))


def _style(shape: int, colour: int | None = None, dash: int | None = None) -> dict[str, Any]:
    """Colour, dashes and marker; with one number, five solid and filled, then dashed and hollow."""
    colour = shape % len(_COLOURS) if colour is None else colour
    dash = shape // len(_COLOURS) if dash is None else dash
    return {
        "color": _COLOURS[colour % len(_COLOURS)],
        "linestyle": _DASHES[dash % len(_DASHES)],
        "marker": MARKERS[shape % len(MARKERS)],
        "markerfacecolor": "white" if dash else _COLOURS[colour % len(_COLOURS)],
    }


def _label(labels: Labels) -> str:
    return plain(shortened(", ".join(labels), LABEL))
