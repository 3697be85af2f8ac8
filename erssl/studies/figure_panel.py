"""A panel of the figure of a study: one metric over the last axis, a series for each row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erssl.run.plots import GREY, plain, shortened
from erssl.studies.grid import Grid
from erssl.studies.metrics import value_of
from erssl.studies.outcome import Outcome, is_of_start, untrained_levels
from erssl.studies.seeds import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL = 60  # characters of a name
SHORT = 6  # characters that fit below a tick
_NUMBERS = 5  # steps at most of the numbers below a panel


@dataclass(frozen=True)
class Series:
    """What is drawn in one style.

    Attributes:
        labels: Options of all axes but the last.
        name: Its name in the legend.
        style: Its colour, dashes and markers.
    """

    labels: tuple[str, ...]
    name: str
    style: Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """How the last axis is laid out.

    Attributes:
        options: Place of each option.
        joined: Whether lines join them.
        sideways: Whether they stand below each other, with their names at the side.
    """

    options: Mapping[str, int]
    joined: bool
    sideways: bool

    def points(self, places: Sequence[float], values: Sequence[float]) -> Any:
        """Horizontal and vertical coordinates."""
        return (values, places) if self.sideways else (places, values)


def draw_panel(
    axes: Axes,
    grid: Grid,
    outcomes: Sequence[Outcome],
    metric: str,
    row: Sequence[Series],
    layout: Layout,
) -> None:
    """Draw a metric; what failed or is not finite is marked at the foot, at its place."""
    missing: dict[tuple[int, str], list[float]] = {}  # where a mean is, by option and reason
    for number, series in enumerate(row):
        aside = (number - (len(row) - 1) / 2) * min(0.15, 0.8 / len(row))
        shift = 0.0 if layout.joined else aside
        means = []
        for option, place in layout.options.items():
            here = [each for each in outcomes if each.labels == (*series.labels, option)]
            values = [value_of(metric, o.metrics[metric]) for o in here if metric in o.metrics]
            level = mean(values) if values else math.nan
            means.append(level if math.isfinite(level) else math.nan)
            finite = [value for value in values if math.isfinite(value)]
            x, y = layout.points([place + shift] * len(finite), finite)
            axes.scatter(x, y, s=8, color=series.style["color"], alpha=0.5)  # the spread
            reason = f"{level:.0f}" if values and not math.isfinite(level) else ""
            if not values and any(each.failure for each in here):
                reason = "failed"
            if reason:
                missing.setdefault((place, reason), []).append(place + aside)
                _mark_missing(axes, layout, place + aside, series)
        style = dict(series.style) if layout.joined else {**series.style, "linestyle": "none"}
        places = [place + shift for place in layout.options.values()]
        points = layout.points(places, means)
        axes.plot(*points, **style, markersize=5, linewidth=1.3, label=series.name)
    for (_, reason), places in missing.items():
        _say_missing(axes, layout, mean(places), reason)
    _untrained(axes, grid, outcomes, metric, layout)


def _mark_missing(axes: Axes, layout: Layout, place: float, series: Series) -> None:
    """Mark that a series has no value at a place."""
    foot = axes.get_yaxis_transform() if layout.sideways else axes.get_xaxis_transform()
    points = layout.points([place], [0.03])
    color = series.style["color"]
    axes.plot(*points, "x", color=color, transform=foot, markersize=5, label="_")


def _say_missing(axes: Axes, layout: Layout, place: float, text: str) -> None:
    """Write why there is no value, beside the marks of a place."""
    foot = axes.get_yaxis_transform() if layout.sideways else axes.get_xaxis_transform()
    at: Any = (0.06, place) if layout.sideways else (place, 0.06)
    axes.annotate(
        text,
        at,
        xycoords=foot,
        rotation=0 if layout.sideways else 90,
        ha="left" if layout.sideways else "center",
        va="center" if layout.sideways else "bottom",
        fontsize=7,
        color=GREY,
    )


def _untrained(
    axes: Axes, grid: Grid, outcomes: Sequence[Outcome], metric: str, layout: Layout
) -> None:
    """Draw the level before training: one, or one at each option of the last axis.

    Where images or network vary along another axis there is a level for each, and none is drawn.
    """
    levels = untrained_levels(grid, outcomes, metric)
    count = len(layout.options)
    spans = {}
    if not any(is_of_start(axis) for axis in grid.axes):
        spans = {(-0.5, count - 0.5): mean(levels[()])} if levels else {}
    elif not any(is_of_start(axis) for axis in grid.axes[:-1]):
        spans = {
            (layout.options[option] - 0.4, layout.options[option] + 0.4): mean(values)
            for (option,), values in levels.items()
        }
    for span, level in spans.items():
        points = layout.points(span, (level, level))
        axes.plot(*points, color=GREY, linewidth=1, linestyle=":", label="_")
    if spans:
        end, level = list(spans.items())[-1]
        at = layout.points([end[1]], [level])
        axes.annotate(
            "untrained",
            (at[0][0], at[1][0]),
            rotation=90 if layout.sideways else 0,
            ha="right",
            va="bottom",
            fontsize=7,
            color=GREY,
        )


def write_ticks(axes: Axes, layout: Layout, name: str, named: bool) -> None:
    """Write the options at their ticks; at the side, by the first panel alone."""
    from matplotlib.ticker import MaxNLocator

    places = list(layout.options.values())
    texts = [plain(shortened(label, LABEL)) for label in layout.options]
    if layout.sideways:
        axes.set_yticks(places, texts if named else [""] * len(texts), fontsize=8)
        axes.set_ylim(len(places) - 0.5, -0.5)  # the first at the top
        axes.set_ylabel(plain(name) if named else "", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(_NUMBERS))
    else:
        turned = max(map(len, texts)) > SHORT
        axes.set_xticks(
            places,
            texts,
            fontsize=8,
            rotation=45 if turned else 0,
            ha="right" if turned else "center",
        )
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_xlabel(plain(name), fontsize=9)
    axes.grid(alpha=0.25)
