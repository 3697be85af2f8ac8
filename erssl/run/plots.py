"""Images of a run and of evaluations: curves, classes, results."""

from __future__ import annotations

import colorsys
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from erssl.errors import printable
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
_FEW = 3  # points of a curve, up to which each is marked
_NAMED_CLASSES, _WRITTEN_CLASSES, _BARS = 40, 20, 60
_LABEL, _CLASS = 200, 40  # characters of a label, of a class's name
# Okabe and Ito's colour-blind safe palette
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, GREY = PALETTE[0], "#666666"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
# Six, which has no divisor in common with the seven colours.
_DASHES = ("-", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
# Letters as journals take them; names of paths that do not differ from one writing to the next.
_VECTOR: Any = {"pdf.fonttype": 42, "svg.hashsalt": "erssl"}
Plots = Literal["png", "pdf", "svg"]


def figure_files(path: Path) -> tuple[str, ...]:
    """Names of the files that a figure may have, one of each format."""
    return tuple(path.with_suffix(f".{kind}").name for kind in get_args(Plots))


def remove_figure(path: Path) -> None:
    """Delete a figure that was drawn before, in every format.

    Args:
        path: The file that :func:`save_figure` was given.
    """
    for name in figure_files(path):
        path.with_name(name).unlink(missing_ok=True)


def save_figure(figure: Figure, path: Path, plots: Plots = "png") -> None:
    """Write a figure in the format that the file's suffix names, whole or not at all.

    Args:
        figure: The figure.
        path: The file.
        plots: ``pdf`` or ``svg`` for a file of that format beside it, with the same name.
    """
    import matplotlib

    files = dict.fromkeys([path, path if plots == "png" else path.with_suffix(f".{plots}")])
    with matplotlib.rc_context(_VECTOR), warnings.catch_warnings():
        # Of names in scripts that matplotlib's font has no letters for; it draws boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        for file in files:
            undated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(file.suffix)
            with replacing(file, keep_suffix=True) as partial:
                figure.savefig(partial, metadata=undated)


def class_colour(number: int) -> tuple[float, float, float]:
    """Red, green and blue of a class; those of neighbouring classes lie far apart.

    Hues go around the circle by the golden ratio; none is so bright that white letters are lost.
    """
    return colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.85, (0.85, 0.65, 0.45)[number % 3])


def run_style(number: int) -> dict[str, Any]:
    """Colour, dashes and marker of one of many curves: neighbours differ in all three.

    The first 42 are unlike each other in colour or dashes; in grey, dashes and markers tell them.
    """
    return {
        "color": PALETTE[number % len(PALETTE)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def plot_curves(
    curves: Curves,
    metrics: Mapping[str, Any],
    path: Path,
    knn_label: str = "kNN top-1",
    plots: Plots = "png",
    before: str = "untrained",
) -> bool:
    """Draw loss, nats below uniform, alignment and kNN accuracy over optimiser steps.

    Args:
        curves: (step, value) pairs by metric name.
        metrics: Final metrics; ``untrained_knn_top1`` is drawn as a dashed line.
        path: The PNG to write.
        knn_label: Title of the kNN accuracy, with the number of neighbours.
        plots: Format that it is also written in; see `save_figure`.
        before: What the accuracy before training is called.

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
        points: Sequence[tuple[float, float]] = curves[name]
        if name == "val_knn_top1":
            points = _with_last(points, curves, metrics.get("knn_top1"))
        marker = "o" if len(points) <= _FEW else None
        draw_line(axes, points, color=BLUE, linewidth=1.5, marker=marker)
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
                before,
                (points[-1][0], untrained),
                color=GREY,
                fontsize=8,
                ha="right",
                va="bottom",
            )
    save_figure(figure, path, plots)
    return True


def _with_last(
    points: Sequence[tuple[float, float]], curves: Curves, final: float | None
) -> list[tuple[float, float]]:
    """The readings of a curve and the final value, at the last step that any curve has."""
    last = max(values[-1][0] for values in curves.values())
    if final is None or points[-1][0] >= max(last, 1):
        return list(points)
    return [*points, (max(last, 1), final)]


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
    """Text that matplotlib draws as it stands: one line, no formulas, nothing without end."""
    text = printable(text)
    text = text if len(text) <= _LABEL else f"{text[:_LABEL]}…"
    return text.replace("$", r"\$")


def shortened(text: str, length: int) -> str:
    """A text of at most so many characters: beginning and end, where names differ."""
    if len(text) <= length:
        return text
    end = (length - 1) * 2 // 3
    return f"{text[: length - 1 - end]}…{text[-end:]}"


def plot_confusion(matrix: Any, names: Sequence[str], path: Path, plots: Plots = "png") -> None:
    """Draw which class is taken for which, as shares of each true class.

    Args:
        matrix: Counts (C, C), rows are the truth.
        names: Of the classes; written where there are at most 40.
        path: The PNG to write.
        plots: Format that it is also written in; see `save_figure`.
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
        labels = [plain(shortened(name, _CLASS)) for name in names]
        axes.set_xticks(range(count), labels, rotation=90)
        axes.set_yticks(range(count), labels)
    if count <= _WRITTEN_CLASSES:
        for i, row in enumerate(shares.tolist()):
            for j, share in enumerate(row):
                if share >= 0.005:
                    colour = "white" if share > 0.6 else "black"
                    text = f"{share:.0%}"
                    axes.text(j, i, text, color=colour, ha="center", va="center", fontsize=7)
    save_figure(figure, path, plots)


def plot_recall(recall: Any, names: Sequence[str], path: Path, plots: Plots = "png") -> None:
    """Draw the accuracy of each class, the worst at the top.

    Args:
        recall: Share (C,) of each class that is classified right; NaN of one that is not drawn.
        names: Of the classes; beyond 60 the worst 60 are drawn.
        path: The PNG to write.
        plots: Format that it is also written in; see `save_figure`.
    """
    from matplotlib.figure import Figure

    there = (~recall.isnan()).nonzero().flatten()
    order = there[recall[there].argsort()][:_BARS]
    values = recall[order].tolist()
    labels = [plain(shortened(names[i], _CLASS)) for i in order.tolist()]
    figure = Figure(figsize=(5, 1.2 + 0.22 * len(labels)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(labels)), values, color=BLUE)
    axes.axvline(float(recall.nanmean()), color=GREY, linestyle="--", linewidth=1, label="mean")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="accuracy of the class")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(axis="x", alpha=0.25)
    save_figure(figure, path, plots)
