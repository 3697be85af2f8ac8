"""The figure of a study: each metric over the last axis, a line for each row."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from erssl.run.plots import GREY, Plots, plain, run_style, save_figure, shortened
from erssl.studies.grid import Grid
from erssl.studies.metrics import title_of, value_of
from erssl.studies.outcome import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEGEND, _LABEL = 4, 60  # names in a line below the panels at most, characters of a name
_TITLE = 9  # characters of a title for each inch of its panel


def plot_study(
    grid: Grid,
    outcomes: Sequence[Outcome],
    metrics: Sequence[str],
    path: Path,
    plots: Plots = "png",
) -> bool:
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
    width = wide * len(drawn)
    longest = max((len(_label(line)) for line in lines), default=0)
    columns = max(1, min(_LEGEND, int(width / (0.6 + 0.078 * longest))))
    height = 3.4 + 0.18 * (-(-len(lines) // columns) - 1)
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    for index, metric in enumerate(drawn):
        axes = figure.add_subplot(1, len(drawn), index + 1)
        _panel(axes, grid, outcomes, metric, lines)
        axes.set_title(plain(shortened(title_of(metric), int(_TITLE * wide))), fontsize=10)
    if len(lines) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)
    save_figure(figure, path, plots)
    return True


def _label(line: tuple[str, ...]) -> str:
    return plain(shortened(", ".join(line), _LABEL))


def _untrained(outcome: Outcome, metric: str) -> list[float]:
    """The metric before training, where the run has it."""
    value = outcome.metrics.get(f"untrained_{metric}")
    return [] if value is None else [value]


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
        style = run_style(number)
        axes.plot(
            [places[label] for label in means],
            list(means.values()),
            **style,
            markersize=4,
            linewidth=1.3,
            label=_label(line) or None,
        )
        for label, seeds in values.items():  # every seed, so that the spread is seen
            axes.scatter([places[label]] * len(seeds), seeds, s=8, color=style["color"], alpha=0.5)
    if untrained := [v for each in outcomes for v in _untrained(each, metric)]:
        level = statistics.fmean(untrained)
        axes.axhline(value_of(metric, level), color=GREY, linewidth=1, linestyle=":")
        axes.annotate(
            "untrained",
            (1, value_of(metric, level)),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=7,
            color=GREY,
        )
    turned = max(map(len, places)) > 6
    axes.set_xticks(
        list(places.values()),
        [plain(shortened(label, _LABEL)) for label in places],
        fontsize=8,
        rotation=45 if turned else 0,
        ha="right" if turned else "center",
    )
    axes.set_xlabel(plain(last.name), fontsize=9)
    axes.grid(alpha=0.25)
