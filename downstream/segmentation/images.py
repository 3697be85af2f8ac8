"""A contact sheet of images, their masks, and the classes that were predicted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from erssl.downstream.detection.image_files import open_image
from erssl.downstream.segmentation.data import SegmentationData
from erssl.downstream.segmentation.masks import IGNORED
from erssl.run.plots import Plots, class_colour, plain, save_figure, shortened

_MOST = 12  # images of a sheet
_IN_A_ROW = 2  # of them
_NAMED = 24  # classes of the legend, the largest ones
_LABEL = 24  # characters of a name
_INCHES = (2.2, 1.9)  # of one field
_BACKGROUND = (0.0, 0.0, 0.0)  # class 0
_NOTHING = (1.0, 1.0, 1.0)  # where there is no class
_TITLES = ("image", "mask", "predicted")


def drawn_images(count: int) -> list[int]:
    """Numbers of the images of a sheet, evenly spread.

    Args:
        count: Of all images.
    """
    return [round(place) for place in np.linspace(0, count - 1, min(_MOST, count)).tolist()]


def draw_maps(
    data: SegmentationData, predicted: Mapping[int, Tensor], path: Path, plots: Plots = "png"
) -> None:
    """Draw images beside their masks and what was predicted, each class in one colour.

    Args:
        data: The images.
        predicted: Class numbers (H, W) by number of the image.
        path: The PNG file.
        plots: Format that it is also written in; see `save_figure`.
    """
    rows = -(-len(predicted) // _IN_A_ROW)
    columns = len(_TITLES) * min(_IN_A_ROW, len(predicted))
    figure = Figure(figsize=(columns * _INCHES[0], rows * _INCHES[1] + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    named = [class_colour(number) for number in range(1, IGNORED)]
    colours = np.array([_BACKGROUND, *named, _NOTHING])
    pixels = np.zeros(IGNORED + 1, dtype=np.int64)
    for place, (number, classes) in enumerate(sorted(predicted.items())):
        row, column = divmod(place, _IN_A_ROW)
        truth, guess = data.mask(number), classes.numpy().astype(np.uint8)
        pixels += _counts(truth) + _counts(guess)
        fields = (np.asarray(open_image(data.images[number])), colours[truth], colours[guess])
        for i, (title, field) in enumerate(zip(_TITLES, fields, strict=True)):
            axes = grid[row][column * len(_TITLES) + i]
            axes.imshow(field)
            axes.set_title(title, fontsize=7, pad=2)
    largest = [c for c in np.argsort(-pixels[:IGNORED], kind="stable")[:_NAMED] if pixels[c]]
    legend = [
        Patch(color=colours[c], label=plain(shortened(data.class_names[c], _LABEL)))
        for c in largest
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=8, fontsize=6, frameon=False)
    save_figure(figure, path, plots)


def _counts(classes: NDArray[Any]) -> NDArray[np.int64]:
    return np.bincount(classes.ravel(), minlength=IGNORED + 1).astype(np.int64)
