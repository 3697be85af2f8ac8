"""A contact sheet of what a detector found, beside what is there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from erssl.downstream.detection.coco import CocoImage
from erssl.downstream.detection.image_files import open_image
from erssl.downstream.detection.job import Detected
from erssl.downstream.detection.masks import draw_mask
from erssl.run.plots import Plots, class_colour, plain, save_figure, shortened

_MOST = 12  # images of a sheet
_COLUMNS = 3  # pairs in a row
_THRESHOLD = 0.5  # score from which a detection is drawn, as in Detectron2's demo
_AT_LEAST = 3  # detections that are drawn in any case
_INCHES = (2.6, 2.1)  # of one image
_DOTS = 110
_LABEL = 40  # characters of a label


def draw_predictions(
    data: Any,
    predictions: Sequence[Detected],
    path: Path,
    threshold: float = _THRESHOLD,
    plots: Plots = "png",
) -> int:
    """Draw pairs of images: on the left what is there, on the right what was found.

    Args:
        data: ``CocoData`` or ``VocData``: ``images`` and ``class_names``.
        predictions: Of some of its images; the first twelve are drawn.
        path: The PNG file, written under a temporary name first.
        threshold: Score from which a detection is drawn; where none reaches it, the best three.
        plots: Format that it is also written in; see `save_figure`.

    Returns:
        Number of images that were drawn; with none, no file is written.
    """
    drawn = list(predictions)[:_MOST]
    if not drawn:
        return 0
    columns = min(_COLUMNS, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(2 * columns * _INCHES[0], rows * _INCHES[1]), dpi=_DOTS)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for place, detected in enumerate(drawn):
        row, column = divmod(place, columns)
        image = data.images[detected.index]
        left, right = grid[row][2 * column], grid[row][2 * column + 1]
        _draw_truth(left, image, data.class_names)
        _draw_detected(right, image, detected, data.class_names, threshold)
    figure.tight_layout(pad=0.4)
    save_figure(figure, path, plots)
    return len(drawn)


def shown(scores: Sequence[float], threshold: float = _THRESHOLD) -> list[int]:
    """Which detections are drawn: those that reach the threshold, else the best three.

    Example:
        >>> shown([0.9, 0.6, 0.2]), shown([0.4, 0.3, 0.2, 0.1])
        ([0, 1], [0, 1, 2])
    """
    falling = sorted(range(len(scores)), key=lambda i: -scores[i])
    return [i for i in falling if scores[i] >= threshold] or falling[:_AT_LEAST]


def _draw_truth(axes: Axes, image: CocoImage, names: Sequence[str]) -> None:
    masks = [
        (draw_mask(i.segmentation, image.height, image.width), i.label)
        for i in image.instances
        if i.segmentation is not None
    ]
    axes.imshow(_tinted(np.asarray(open_image(image)), masks))
    axes.set_title("annotated", fontsize=6, pad=2)
    for instance in image.instances:
        x, y, width, height = instance.box
        label = names[instance.label] + (" (crowd)" if instance.crowd else "")
        _box(axes, (x, y, x + width, y + height), label, instance.label)


def _draw_detected(
    axes: Axes, image: CocoImage, detected: Detected, names: Sequence[str], threshold: float
) -> None:
    which = shown(detected.scores, threshold)
    codes = detected.masks or []
    masks = [
        (draw_mask(codes[i], image.height, image.width), detected.labels[i]) for i in which if codes
    ]
    axes.imshow(_tinted(np.asarray(open_image(image)), masks))
    axes.set_title("found" if which else "found nothing", fontsize=6, pad=2)
    for i in which:
        label = f"{names[detected.labels[i]]} {detected.scores[i]:.2f}"
        _box(axes, detected.boxes[i], label, detected.labels[i])


def _tinted(pixels: np.ndarray[Any, Any], masks: Sequence[tuple[np.ndarray[Any, Any], int]]) -> Any:
    """Mix the colours of classes into the pixels of their masks."""
    result = pixels.astype(np.float32)
    for mask, label in masks:
        inside = mask.astype(bool)
        result[inside] = 0.5 * result[inside] + 0.5 * 255 * np.asarray(class_colour(label))
    return result.clip(0, 255).astype(np.uint8)


def _box(axes: Axes, corners: tuple[float, float, float, float], label: str, number: int) -> None:
    x0, y0, x1, y1 = corners
    colour = class_colour(number)
    outline = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=0.9)
    axes.add_patch(outline)
    frame = {"facecolor": colour, "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
    shown_label = plain(shortened(label, _LABEL))
    axes.text(
        x0, y0, shown_label, fontsize=4.5, color="white", va="bottom", bbox=frame, clip_on=True
    )
