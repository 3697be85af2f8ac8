"""The figure of a study: each metric over the last axis, a line for each row."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from erssl.run.plots import PALETTE, save_figure
from erssl.studies.page import Outcome, label_of, value_of
from erssl.studies.plan import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES, _MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D", "v", "x", "P")


def plot_study(grid: Grid, outcomes: Sequence[Outcome], metrics: Sequence[str], path: Path) -> bool:
    """Draw what the runs came to.

    One panel a metric. With one axis the options are on the horizontal axis; with several, the
    last axis is, and each combination of the others is a line.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    drawn = [m for m in metrics if any(m in each.metrics for each in outcomes)][:4]
    if not drawn:
        return False
    lines = list(dict.fromkeys(each.labels[:-1] for each in outcomes if each.metrics))
    wide = max(3.4, 0.42 * len(grid.axes[-1].options))
    figure = Figure(figsize=(wide * len(drawn), 3.4), dpi=110, layout="constrained")
    for index, metric in enumerate(drawn):
        axes = figure.add_subplot(1, len(drawn), index + 1)
        _panel(axes, grid, outcomes, metric, lines)
        axes.set_title(label_of(metric), fontsize=10)
    if len(lines) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    save_figure(figure, path)
    return True


def _panel(
    axes: Axes,
    grid: Grid,
    outcomes: Sequence[Outcome],
    metric: str,
    lines: Sequence[tuple[str, ...]],
) -> None:
    last = grid.axes[-1]
    places = {label: place for place, label in enumerate(last.options)}
    for number, line in enumerate(lines):
        values: dict[str, list[float]] = {}
        for each in outcomes:
            if each.labels[:-1] == line and metric in each.metrics:
                value = value_of(metric, each.metrics[metric])
                values.setdefault(each.labels[-1], []).append(value)
        means = {label: statistics.fmean(v) for label, v in values.items()}
        color = PALETTE[number % len(PALETTE)]
        axes.plot(
            [places[label] for label in means],
            list(means.values()),
            _STYLES[number // len(PALETTE) % len(_STYLES)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            color=color,
            linewidth=1.3,
            label=", ".join(line) or None,
        )
        for label, seeds in values.items():  # every seed, so that the spread is seen
            axes.scatter([places[label]] * len(seeds), seeds, s=8, color=color, alpha=0.5)
    turned = max(map(len, places)) > 6
    axes.set_xticks(
        list(places.values()),
        list(places),
        fontsize=8,
        rotation=45 if turned else 0,
        ha="right" if turned else "center",
    )
    axes.set_xlabel(last.name, fontsize=9)
    axes.grid(alpha=0.25)
