"""The figure of many results: top-1 of each run, one panel for each protocol and data set."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erssl.run.plots import BLUE, GREY, Plots, plain, save_figure, shortened

_NAME, _LETTER = 44, 0.066  # characters of a bar's name, inches of each
_BAR = 0.24  # inches a bar
_AXES, _TITLE = 2.9, 36  # inches of a panel beside its names, characters of a line above it
_COLUMNS, _WIDEST = 3, 15.0  # panels in a row, inches of a row
_BEFORE, _AT_END = " before training", " at the end of pretraining"

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class _Panel:
    """Bars of one protocol on one data set, from above."""

    title: str
    names: Sequence[str]
    entries: Sequence[Entry]


def plot_results(entries: Sequence[Entry], path: Path, plots: Plots = "png") -> bool:
    """Draw top-1 of several results as bars, one panel for each protocol and data set.

    Args:
        entries: Lines of a table: ``method``, ``protocol``, ``dataset``, ``top1`` and ``folder``.
            Bars are named by their methods, with their folders where methods repeat.
        path: The PNG to write.
        plots: Format that it is also written in; see `save_figure`.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    panels = _panels(entries)
    if not panels:
        return False
    letters = max(len(name) for panel in panels for name in panel.names)
    width = _AXES + _LETTER * letters
    columns = max(1, min(_COLUMNS, len(panels), int(_WIDEST / width)))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    titles = [max(_titled(panel).count("\n") for panel in row) for row in rows]
    heights = [
        0.95 + 0.18 * lines + _BAR * max(len(panel.entries) for panel in row)
        for row, lines in zip(rows, titles, strict=True)
    ]
    figure = Figure(figsize=(columns * width, sum(heights)), dpi=110, layout="constrained")
    grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    for number, row in enumerate(rows):
        longest = max(len(panel.entries) for panel in row)
        for column, panel in enumerate(row):
            _draw(figure.add_subplot(grid[number, column]), panel, longest)
    save_figure(figure, path, plots)
    return True


def bar_names(entries: Sequence[Entry]) -> list[str]:
    """The method of each bar, with its folder where methods repeat.

    Of folders only so many of the last parts are named as tell them apart; of a folder that has
    several results of a method, the setting is named too.
    """
    names = [str(entry["method"]) for entry in entries]
    folders = short_paths([str(entry.get("folder", "")) for entry in entries])
    for more in (folders, [str(entry.get("setting", "")) for entry in entries]):
        repeated = {name for name in names if names.count(name) > 1}
        names = [
            f"{name}, {text}" if name in repeated and text else name
            for name, text in zip(names, more, strict=True)
        ]
    return names


def short_paths(paths: Sequence[str]) -> list[str]:
    """The last parts of paths, as few as tell different ones apart.

    Example:
        >>> short_paths(["runs/a/knn", "runs/b/knn", "runs/c"])
        ['a/knn', 'b/knn', 'c']
    """
    parts = {path: Path(path).parts for path in paths}
    short = dict.fromkeys(parts, 1)

    def shown(path: str) -> str:
        return "/".join(parts[path][-short[path] :]).replace("//", "/")

    while True:
        names = [shown(path) for path in parts]
        alike = [p for p in parts if names.count(shown(p)) > 1 and short[p] < len(parts[p])]
        if not alike:
            return [shown(path) for path in paths]
        for path in alike:
            short[path] += 1


def _panels(entries: Sequence[Entry]) -> list[_Panel]:
    grouped: dict[str, list[Entry]] = {}
    for entry in entries:
        if "top1" in entry:
            # before and after are compared, so they are drawn side by side
            protocol = str(entry["protocol"])
            if protocol.endswith(_BEFORE):
                protocol = protocol.removesuffix(_BEFORE) + _AT_END
                entry = {**entry, "method": f"{entry['method']}{_BEFORE}"}
            grouped.setdefault(f"{protocol}, {entry['dataset']}", []).append(entry)
    return [
        _Panel(title, [shortened(name, _NAME) for name in bar_names(bars)], bars)
        for title, bars in grouped.items()
    ]


def _titled(panel: _Panel) -> str:
    """The title in as many lines as its axes are wide."""
    return "\n".join(map(plain, textwrap.wrap(shortened(panel.title, 160), _TITLE)))


def _draw(axes: Any, panel: _Panel, longest: int) -> None:
    places = range(len(panel.entries))
    values = [entry["top1"] for entry in panel.entries]
    errors = [entry.get("top1_std", 0.0) for entry in panel.entries]
    before = [str(entry["method"]).endswith(_BEFORE) for entry in panel.entries]
    bars = axes.barh(places, values, color=BLUE, height=0.72)
    for bar, untrained in zip(bars, before, strict=True):
        if untrained:
            bar.set(facecolor="white", edgecolor=GREY, hatch="////")
    if any(errors):
        axes.errorbar(values, places, xerr=errors, fmt="none", ecolor="black", elinewidth=1)
    axes.set_yticks(places, list(map(plain, panel.names)), fontsize=8)
    axes.set(xlim=(0, 1.16), ylim=(longest - 0.4, -0.6))
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_xlabel("top-1", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(_titled(panel), fontsize=10)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    for place, value, error in zip(places, values, errors, strict=True):
        axes.text(value + error + 0.01, place, f"{value:.1%}", va="center", fontsize=7.5)
