"""The figure of what the lens read of one run, or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erssl.run.plots import (
    GREY,
    PALETTE,
    Plots,
    draw_line,
    plain,
    run_style,
    save_figure,
    scale_below_uniform,
    shortened,
)

Readings = Sequence[Mapping[str, float]]
_DASHES = ("-", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))  # beside colour, of one run
_WIDTH, _NAME = 10, 60  # inches, characters of a run's name
_MARKED = 12  # readings from which not each has a marker
_LEGEND, _LINE = 4, 0.2  # names in a line below the panels at most, inches of a line
_AREA = "log_sphere_area"


def plot_lens(runs: Mapping[str, Readings], path: Path, plots: Plots = "png") -> bool:
    """Draw nats below uniform, the terms of the bound and the geometry over steps.

    Args:
        runs: Readings of each run by its label; one run is drawn at every concentration, several
            at the first that they share. Readings of before that lack a column are drawn in the
            panels that they have.
        path: The figure to write, in the format of its suffix.
        plots: Format that it is also written in; see `save_figure`.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    longest = max((len(shortened(label, _NAME)) for label in runs), default=1)
    columns = max(1, min(_LEGEND, int(_WIDTH / (0.6 + 0.085 * longest))))
    lines = -(-len(runs) // columns) if len(runs) > 1 else 0
    size = (_WIDTH, 5.6 + _LINE * max(0, lines - 1))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    panels = [panel for panel in _panels(runs) if panel.columns(runs)][:6]
    if not panels:
        return False
    for index, panel in enumerate(panels):
        _draw_panel(figure.add_subplot(2, 3, index + 1), panel, runs)
    if len(runs) > 1:
        handles: dict[str, Any] = {}
        for axes in figure.axes:
            drawn, labels = axes.get_legend_handles_labels()
            handles |= dict(zip(labels, drawn, strict=True))
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=columns,
            fontsize=9,
            handlelength=3.5,
        )
    save_figure(figure, path, plots)
    return True


def _panels(runs: Mapping[str, Readings]) -> list[_LensPanel]:
    """The headline first; the reading at a fixed κ only where a run of before has no other."""
    lack = any(rows and not any(map(_BELOW.holds, rows[-1])) for rows in runs.values())
    return [_BELOW, *([_AT_FIXED_KAPPA] if lack else []), *_LENS_PANELS]


def _draw_panel(axes: Any, panel: _LensPanel, runs: Mapping[str, Readings]) -> None:
    single = len(runs) == 1
    columns = panel.columns(runs)
    # of one run: one a concentration
    colours = 2 if panel is _BELOW else max(1, len(columns) // len(panel.prefixes))
    ceilings: dict[float, str] = {}
    lowest: list[float] = []
    for number, (label, rows) in enumerate(runs.items()):
        for order, column in enumerate(columns if single else columns[:1]):
            points = [
                (row["step"], panel.value(row, column)) for row in rows if panel.has(row, column)
            ]
            if not points:
                continue
            style = _style(order, colours) if single else run_style(number)
            if len(points) >= _MARKED:  # markers of several runs apart from each other
                sparse = {"markevery": (0.03 * (number % 8), 0.25)}
                style |= {"marker": None} if single else sparse
            draw_line(
                axes,
                points,
                **style,
                linewidth=1.6,
                markersize=3 if single else 4,
                label=plain(_legend(column) if single else shortened(label, _NAME)),
            )
            lowest += [value for _, value in points]
        if rows and (ceiling := panel.ceiling_of(rows[-1])) is not None:
            ceilings[ceiling] = panel.ceiling_label
    for value, text in ceilings.items():
        axes.axhline(value, color=GREY, linestyle="--", linewidth=1)
        axes.annotate(
            text,
            (0.99, value),
            xycoords=("axes fraction", "data"),
            color=GREY,
            fontsize=8,
            ha="right",
            va="bottom",
        )
    title = panel.title if single else panel.of_several.format(columns[0].rpartition("_k")[2])
    axes.set_title(plain(title), fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.margins(y=0.12)
    axes.grid(alpha=0.25)
    if panel is _BELOW:
        scale_below_uniform(axes, lowest)
    else:
        axes.ticklabel_format(axis="y", useOffset=False)
    if single and len(columns) > 1:
        axes.legend(fontsize=7, framealpha=0.8)


def _style(order: int, colours: int) -> dict[str, Any]:
    """Of the columns of one run: a colour for each concentration, dashes for each quantity."""
    dashes = _DASHES[(order // colours) % len(_DASHES)]
    return {"color": PALETTE[(order % colours) % len(PALETTE)], "linestyle": dashes, "marker": "o"}


@dataclass(frozen=True)
class _LensPanel:
    """Columns that are drawn together.

    Attributes:
        title: Where one run is drawn.
        of_several: Where several are, with a place for their κ.
        prefixes: Names of columns, or what they begin with where it ends in ``_k``.
        ceiling: Column of the ceiling, or its value.
        ceiling_label: What the ceiling is.
        area: How often the log area of the sphere is added, so that runs of different dimensions
            have one scale: -1 for entropies, 1 for log densities.
    """

    title: str
    of_several: str
    prefixes: tuple[str, ...]
    ceiling: str | float | None = None
    ceiling_label: str = ""
    area: int = 0

    def columns(self, runs: Mapping[str, Readings]) -> list[str]:
        """Columns that belong here and that every run has which has any, prefix by prefix."""
        last = [rows[-1] for rows in runs.values() if rows]
        names = [[n for n in row if self.holds(n) and self.has(row, n)] for row in last]
        having = [own for own in names if own]
        common = [n for n in (having[0] if having else []) if all(n in own for own in having)]
        return sorted(common, key=lambda n: [n.startswith(p) for p in self.prefixes], reverse=True)

    def holds(self, name: str) -> bool:
        """Whether a column belongs here."""
        return any(name == p or (p.endswith("_k") and name.startswith(p)) for p in self.prefixes)

    def has(self, row: Mapping[str, float], column: str) -> bool:
        """Whether a row has a column, and the area that it is drawn against."""
        return column in row and (not self.area or _AREA in row)

    def value(self, row: Mapping[str, float], column: str) -> float:
        """What is drawn of a row."""
        return row[column] + (self.area * row[_AREA] if self.area else 0)

    def ceiling_of(self, row: Mapping[str, float]) -> float | None:
        """Where the ceiling stands, if there is one."""
        return row.get(self.ceiling) if isinstance(self.ceiling, str) else self.ceiling


_BELOW = _LensPanel(
    title="entropy H, nats below uniform",
    of_several="entropy H, nats below uniform (at most)",
    prefixes=("nats_below_uniform_kde", "nats_below_uniform_knn"),
    ceiling=0.0,
    ceiling_label="uniform",
)
_AT_FIXED_KAPPA = _LensPanel(
    title="smoothed density, nats below uniform",
    of_several="smoothed by κ = {}, nats below uniform",
    prefixes=("entropy_k",),
    ceiling=0.0,
    ceiling_label="uniform",
    area=-1,
)
_LENS_PANELS = (
    _LensPanel(
        title="reconstruction E[log q], nats above uniform",
        of_several="E[log q], nats above uniform (κ = {})",
        prefixes=("reconstruction_k",),
        area=1,
    ),
    _LensPanel(
        title="information of the views, nats",
        of_several="information (estimate), nats (κ = {})",
        prefixes=("i_er_k", "infonce_k"),
        ceiling="log_n",
        ceiling_label="log N",
    ),
    _LensPanel(
        title="discrete H and E[log q], nats",
        of_several="discrete H, nats",
        prefixes=("discrete_entropy", "discrete_reconstruction", "discrete_i_er"),
        ceiling="log_k",
        ceiling_label="log K",
    ),
    _LensPanel("alignment (mean cosine)", "alignment (mean cosine)", ("alignment",)),
    _LensPanel("effective rank", "effective rank", ("effective_rank",)),
    # where there is no discrete panel
    _LensPanel(
        "mean cosine of different images", "mean cosine of different images", ("mean_cosine",)
    ),
    _LensPanel("uniformity", "uniformity", ("uniformity",)),
)


def _legend(column: str) -> str:
    name, _, kappa = column.rpartition("_k")
    names = {
        "nats_below_uniform_kde": "at most (best κ, held out)",
        "nats_below_uniform_knn": "estimate (nearest neighbours)",
        "i_er": "estimate H + E[log q]",
        "infonce": "at least (InfoNCE)",
        "discrete_entropy": "H",
        "discrete_reconstruction": "E[log q]",
        "discrete_i_er": "H + E[log q]",
    }
    if column in names:
        return names[column]
    return f"{names.get(name, '')} κ = {kappa}".strip() if name else column
