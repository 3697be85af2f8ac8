"""Images of a run and of evaluations: curves, classes, results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erssl.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = dict[str, list[tuple[int, float]]]

_PANELS = (
    ("train_loss", "loss"),
    ("train_nats_below_uniform", "entropy, nats below uniform"),
    ("train_alignment", "alignment (mean cosine)"),
    ("val_knn_top1", "kNN top-1"),
)
_NAMED_CLASSES, _WRITTEN_CLASSES, _BARS = 40, 20, 60
_LABEL = 200  # characters of a label
# Okabe and Ito's colour-blind safe palette
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, GREY = PALETTE[0], "#666666"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the file's suffix names, whole or not at all."""
    with replacing(path, keep_suffix=True) as partial:
        figure.savefig(partial)


def plot_curves(
    curves: Curves, metrics: Mapping[str, Any], path: Path, knn_label: str = "kNN top-1"
) -> bool:
    """Draw loss, nats below uniform, alignment and kNN accuracy over optimiser steps.

    Args:
        curves: (step, value) pairs by metric name.
        metrics: Final metrics; ``untrained_knn_top1`` is drawn as a dashed line.
        path: The PNG to write.
        knn_label: Title of the kNN accuracy, with the number of neighbours.

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
        draw_line(axes, curves[name], color=BLUE, linewidth=1.5)
        axes.set(title=knn_label if name == "val_knn_top1" else label, xlabel="step")
        axes.title.set_fontsize(10)
        if name == "train_nats_below_uniform":
            axes.axhline(0, color=GREY, linestyle="--", linewidth=1)
            scale_below_uniform(axes, [value for _, value in curves[name]])
        else:
            axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(alpha=0.25)
        untrained = metrics.get("untrained_knn_top1")
        if name == "val_knn_top1" and untrained is not None:
            axes.axhline(untrained, color=GREY, linestyle="--", linewidth=1)
            axes.annotate(
                "untrained",
                (curves[name][-1][0], untrained),
                color=GREY,
                fontsize=8,
                ha="right",
                va="bottom",
            )
    save_figure(figure, path)
    return True


def draw_line(axes: Any, points: Sequence[tuple[float, float]], **style: Any) -> None:
    """Draw a curve; where it is -inf, for embeddings without density, say so at the foot."""
    steps, values = zip(*points, strict=True)
    axes.plot(steps, [v if math.isfinite(v) else math.nan for v in values], **style)
    fallen = [step for step, value in points if value == -math.inf]
    if fallen:
        foot = axes.get_xaxis_transform()
        color = style.get("color", BLUE)
        axes.plot(fallen, [0.03] * len(fallen), "x", color=color, transform=foot, markersize=5)
        axes.annotate(
            "collapsed",
            (fallen[0], 0.06),
            xycoords=foot,
            color=color,
            fontsize=8,
            ha="left",
            va="bottom",
        )


def scale_below_uniform(axes: Any, values: Sequence[float]) -> None:
    """Give nats below uniform a logarithmic axis where they span more than a factor of 20."""
    finite = [value for value in values if math.isfinite(value)]
    nearest = max(1.0, -max(finite, default=0.0))
    if finite and min(finite) < -20 * nearest:
        axes.set_yscale("symlog", linthresh=10 ** math.floor(math.log10(nearest)))
    else:
        axes.ticklabel_format(axis="y", useOffset=False)


def plain(text: str) -> str:
    """Text that matplotlib draws as it stands: no formulas, nothing without end or encoding."""
    text = text if len(text) <= _LABEL else f"{text[:_LABEL]}…"
    return text.encode("utf-8", "replace").decode().replace("$", r"\$")


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
        labels = [plain(name) for name in names]
        axes.set_xticks(range(count), labels, rotation=90)
        axes.set_yticks(range(count), labels)
    if count <= _WRITTEN_CLASSES:
        for i, row in enumerate(shares.tolist()):
            for j, share in enumerate(row):
                if share >= 0.005:
                    colour = "white" if share > 0.6 else "black"
                    text = f"{share:.0%}"
                    axes.text(j, i, text, color=colour, ha="center", va="center", fontsize=7)
    save_figure(figure, path)


def plot_recall(recall: Any, names: Sequence[str], path: Path) -> None:
    """Draw the accuracy of each class, the worst at the top.

    Args:
        recall: Share (C,) of each class that is classified right.
        names: Of the classes; beyond 60 the worst 60 are drawn.
        path: The PNG to write.
    """
    from matplotlib.figure import Figure

    order = recall.argsort()[:_BARS]
    values, labels = recall[order].tolist(), [plain(names[i]) for i in order.tolist()]
    figure = Figure(figsize=(5, 1.2 + 0.22 * len(labels)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(labels)), values, color=BLUE)
    axes.axvline(float(recall.mean()), color=GREY, linestyle="--", linewidth=1, label="mean")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="accuracy of the class")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(axis="x", alpha=0.25)
    save_figure(figure, path)


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
        axes.barh(range(len(bars)), values, xerr=errors, color=BLUE, ecolor=GREY)
        axes.set_yticks(range(len(bars)), list(map(plain, _bar_names(bars))), fontsize=8)
        axes.set(xlim=(0, 1), ylim=(longest - 0.4, -0.6), xlabel="top-1")
        axes.set_title(plain(title), fontsize=10)
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
    save_figure(figure, path)
    return True


def _bar_names(bars: Sequence[Mapping[str, Any]]) -> list[str]:
    """The method of each bar, with its setting where methods repeat."""
    names = [str(bar["method"]) for bar in bars]
    if len(set(names)) == len(names):
        return names
    said = [str(bar.get("setting", "")).replace(" ", "\n", 1) for bar in bars]
    return [f"{name}, {setting}" for name, setting in zip(names, said, strict=True)]
