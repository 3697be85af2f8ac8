"""Images of a run: its curves, and what the lens read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Curves = dict[str, list[tuple[int, float]]]
Readings = Sequence[Mapping[str, float]]

_PANELS = (
    ("train_loss", "loss"),
    ("train_entropy", "entropy, nats (KDE, κ = 10)"),
    ("train_alignment", "alignment (mean cosine)"),
    ("val_knn_top1", "kNN top-1"),
)
_NAMED_CLASSES, _WRITTEN_CLASSES, _BARS = 40, 20, 60
_LABEL = 200  # characters of a label
# Okabe and Ito's colour-blind safe palette
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_BLUE, _GREY = _PALETTE[0], "#666666"
_DASHES = ("-", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))  # beside colour, where runs are many


def plot_curves(curves: Curves, metrics: Mapping[str, Any], path: Path) -> bool:
    """Draw loss, entropy, alignment and kNN accuracy over optimiser steps.

    Args:
        curves: (step, value) pairs by metric name.
        metrics: Final metrics; ``untrained_knn_top1`` is drawn as a dashed line.
        path: The PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    panels = [(name, label) for name, label in _PANELS if name in curves]
    if not panels:
        return False
    figure = Figure(figsize=(3.2 * len(panels), 2.6), dpi=110, layout="constrained")
    for index, (name, label) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        steps, values = zip(*curves[name], strict=True)
        axes.plot(steps, values, color=_BLUE, linewidth=1.5)
        axes.set(title=label, xlabel="step")
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.25)
        untrained = metrics.get("untrained_knn_top1")
        if name == "val_knn_top1" and untrained is not None:
            axes.axhline(untrained, color=_GREY, linestyle="--", linewidth=1)
            axes.annotate(
                "untrained",
                (steps[-1], untrained),
                color=_GREY,
                fontsize=8,
                ha="right",
                va="bottom",
            )
    figure.savefig(path)
    return True


def plot_lens(runs: Mapping[str, Readings], path: Path) -> bool:
    """Draw entropy, reconstruction and their sum over steps, with their ceilings dashed.

    Args:
        runs: Readings of each run by its label; one run is drawn at every concentration, several
            at the first that they share.
        path: The PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.6), dpi=110, layout="constrained")
    panels = [panel for panel in _LENS_PANELS if panel.columns(runs)][:6]
    if not panels:
        return False
    for index, panel in enumerate(panels):
        _draw_panel(figure.add_subplot(2, 3, index + 1), panel, runs)
    if len(runs) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    figure.savefig(path)
    return True


def _plain(text: str) -> str:
    """Text that matplotlib draws as it stands: no formulas, nothing without end or encoding."""
    text = text if len(text) <= _LABEL else f"{text[:_LABEL]}…"
    return text.encode("utf-8", "replace").decode().replace("$", r"\$")


def _draw_panel(axes: Any, panel: _LensPanel, runs: Mapping[str, Readings]) -> None:
    single = len(runs) == 1
    columns = panel.columns(runs)
    colours = max(1, len(columns) // len(panel.prefixes))  # of one run: one a concentration
    ceilings: dict[float, str] = {}
    for number, (label, rows) in enumerate(runs.items()):
        for order, column in enumerate(columns if single else columns[:1]):
            points = [(row["step"], row[column]) for row in rows if column in row]
            if not points:
                continue
            axes.plot(
                *zip(*points, strict=True),
                color=_PALETTE[(order % colours if single else number) % len(_PALETTE)],
                linestyle=_DASHES[(order // colours if single else number // len(_PALETTE)) % 4],
                linewidth=1.6,
                marker="o" if len(points) < 12 else None,
                markersize=3,
                label=_plain(_legend(column) if single else label),
            )
        if rows and panel.ceiling in rows[-1]:
            ceilings[rows[-1][panel.ceiling]] = panel.ceiling_label
    for value, text in ceilings.items():
        axes.axhline(value, color=_GREY, linestyle="--", linewidth=1)
        axes.annotate(
            text,
            (0.99, value),
            xycoords=("axes fraction", "data"),
            color=_GREY,
            fontsize=8,
            ha="right",
            va="bottom",
        )
    title = panel.title if single else panel.of_several.format(columns[0].rpartition("_k")[2])
    axes.set_title(_plain(title), fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.margins(y=0.12)
    axes.grid(alpha=0.25)
    if single and len(columns) > 1:
        axes.legend(fontsize=7, framealpha=0.8)


@dataclass(frozen=True)
class _LensPanel:
    title: str
    of_several: str
    prefixes: tuple[str, ...]
    ceiling: str = ""
    ceiling_label: str = ""

    def columns(self, runs: Mapping[str, Readings]) -> list[str]:
        """Columns that belong here and that every run has which has any, prefix by prefix."""
        names = [[n for n in rows[-1] if self._holds(n)] for rows in runs.values() if rows]
        having = [own for own in names if own]
        common = [n for n in (having[0] if having else []) if all(n in own for own in having)]
        return sorted(common, key=lambda n: [n.startswith(p) for p in self.prefixes], reverse=True)

    def _holds(self, name: str) -> bool:
        return any(name == p or (p.endswith("_k") and name.startswith(p)) for p in self.prefixes)


_LENS_PANELS = (
    _LensPanel(
        title="entropy H, nats",
        of_several="entropy H, nats (κ = {})",
        prefixes=("entropy_k",),
        ceiling="log_sphere_area",
        ceiling_label="log area of the sphere",
    ),
    _LensPanel(
        title="reconstruction E[log q], nats",
        of_several="reconstruction E[log q], nats (κ = {})",
        prefixes=("reconstruction_k",),
    ),
    _LensPanel(
        title="information of the views, nats",
        of_several="H + E[log q], nats (κ = {})",
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
    _LensPanel("uniformity", "uniformity", ("uniformity",)),  # where there is no discrete panel
)


def _legend(column: str) -> str:
    name, _, kappa = column.rpartition("_k")
    words = {"i_er": "H + E[log q]", "infonce": "InfoNCE", "discrete_entropy": "H"}
    words |= {"discrete_reconstruction": "E[log q]", "discrete_i_er": "H + E[log q]"}
    return f"{words.get(name, '')} κ = {kappa}".strip() if name else words.get(column, column)


def plot_confusion(matrix: Any, names: Sequence[str], path: Path) -> None:
    """Draw which class is taken for which, as shares of each true class.

    Args:
        matrix: Counts (C, C), rows are the truth.
        names: Of the classes; written where there are at most 40.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure

    count = len(names)
    side = min(12.0, 2.4 + 0.32 * count)
    figure = Figure(figsize=(side + 0.8, side), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    shares = matrix / matrix.sum(dim=1, keepdim=True).clamp_min(1)
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true")
    if count <= _NAMED_CLASSES:
        labels = [_plain(name) for name in names]
        axes.set_xticks(range(count), labels, rotation=90)
        axes.set_yticks(range(count), labels)
    if count <= _WRITTEN_CLASSES:
        for i, row in enumerate(shares.tolist()):
            for j, share in enumerate(row):
                if share >= 0.005:
                    colour = "white" if share > 0.6 else "black"
                    text = f"{share:.0%}"
                    axes.text(j, i, text, color=colour, ha="center", va="center", fontsize=7)
    figure.savefig(path)


def plot_recall(recall: Any, names: Sequence[str], path: Path) -> None:
    """Draw the accuracy of each class, the worst at the top.

    Args:
        recall: Share (C,) of each class that is classified right.
        names: Of the classes; beyond 60 the worst 60 are drawn.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure

    order = recall.argsort()[:_BARS]
    values, labels = recall[order].tolist(), [_plain(names[i]) for i in order.tolist()]
    figure = Figure(figsize=(5, 1.2 + 0.22 * len(labels)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(labels)), values, color=_BLUE)
    axes.axvline(float(recall.mean()), color=_GREY, linestyle="--", linewidth=1, label="mean")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="accuracy of the class")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(axis="x", alpha=0.25)
    figure.savefig(path)


def plot_results(entries: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Draw top-1 of several results as bars, one panel for each protocol and data set.

    Args:
        entries: Lines of a table: ``method``, ``protocol``, ``dataset`` and ``top1``.
        path: The PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    panels: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if "top1" in entry:
            panels.setdefault(f"{entry['protocol']}, {entry['dataset']}", []).append(entry)
    if not panels:
        return False
    longest = max(len(bars) for bars in panels.values())
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (4.4 * columns, rows * (1.0 + 0.34 * longest))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    for index, (title, bars) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        values = [bar["top1"] for bar in bars]
        errors = [bar.get("top1_std", 0.0) for bar in bars]
        axes.barh(range(len(bars)), values, xerr=errors, color=_BLUE, ecolor=_GREY)
        axes.set_yticks(range(len(bars)), list(map(_plain, _bar_names(bars))), fontsize=8)
        axes.set(xlim=(0, 1), ylim=(longest - 0.4, -0.6), xlabel="top-1")
        axes.set_title(_plain(title), fontsize=10)
        axes.grid(axis="x", alpha=0.25)
        for row, value in enumerate(values):
            inside = value > 0.2
            axes.text(
                0.01 if inside else value + 0.02,
                row,
                f"{value:.1%}",
                va="center",
                fontsize=8,
                color="white" if inside else "black",
            )
    figure.savefig(path)
    return True


def _bar_names(bars: Sequence[Mapping[str, Any]]) -> list[str]:
    """The method of each bar, with its setting where methods repeat."""
    names = [str(bar["method"]) for bar in bars]
    if len(set(names)) == len(names):
        return names
    said = [str(bar.get("setting", "")).replace(" ", "\n", 1) for bar in bars]
    return [f"{name}, {setting}" for name, setting in zip(names, said, strict=True)]
