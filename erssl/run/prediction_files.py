"""Predicted classes as files: a table, and a contact sheet to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from erssl.files import write_rows
from erssl.run.feature_files import ImageRows
from erssl.run.plots import GREY, PALETTE, Plots, plain, save_figure, shortened

_COLUMNS = 6  # of the sheet
_THUMBNAIL = 160  # pixels
_NAME = 18  # characters of a class name on the sheet
_FILE = 24  # characters of a file name
_WRONG = PALETTE[1]
_BELOW: dict[str, Any] = {"ha": "center", "va": "top", "color": GREY}


class Tile(NamedTuple):
    """One image of a contact sheet.

    Attributes:
        image: Of any size.
        predicted: Name of the likeliest class.
        probability: Its probability.
        true: Name of the class of the image; empty where it is not known.
        file: Of the image, with or without its folder, whose own name is shown.
    """

    image: Image.Image
    predicted: str
    probability: float
    true: str
    file: str = ""


def write_predictions(
    path: Path, rows: ImageRows, logits: Tensor, classes: Sequence[str], top: int | None
) -> None:
    """Write a line for each image: file, split, its class where it is known, and predictions.

    Args:
        path: The CSV file.
        rows: The images.
        logits: (N, C), whose softmax are the probabilities.
        classes: Names of the C classes.
        top: Number of classes that are written for each image, the likeliest first, as
            ``class_1``, ``probability_1``, ``class_2`` and so on; ``None`` for the likeliest as
            ``predicted`` and a column of probabilities for every class.
    """
    names = list(classes)
    probabilities = probabilities_of(logits)
    about = list(zip(rows.files, rows.splits, rows.classes, strict=True))
    if top is None:
        header = ["file", "split", "class", "predicted", *names]
        lines = [
            (*known, names[best], *map(_number, row))
            for known, best, row in zip(
                about, logits.argmax(dim=1).tolist(), probabilities.tolist(), strict=True
            )
        ]
    else:
        count = min(top, len(names))
        kinds = ("class", "probability")
        header = ["file", "split", "class"]
        header += [f"{kind}_{rank}" for rank in range(1, count + 1) for kind in kinds]
        # stable, so that of equal classes the first is named, as argmax does
        order = logits.sort(dim=1, descending=True, stable=True).indices[:, :count]
        pairs = zip(probabilities.gather(1, order).tolist(), order.tolist(), strict=True)
        lines = [
            (*known, *(cell for p, i in zip(*pair, strict=True) for cell in (names[i], _number(p))))
            for known, pair in zip(about, pairs, strict=True)
        ]
    write_rows(path, [header, *lines])


def probabilities_of(logits: Tensor) -> Tensor:
    """The softmax (N, C), computed in float64."""
    return logits.double().softmax(dim=1)


def _number(probability: float) -> str:
    return f"{probability:.7g}"


def plot_contact_sheet(
    sections: Sequence[tuple[str, Sequence[Tile]]], path: Path, plots: Plots = "png"
) -> None:
    """Draw images with the class that was predicted for each, wrong ones in another colour.

    Below each is the name of its file.

    Args:
        sections: Title and images of each part of the sheet.
        path: The PNG to write.
        plots: Format that it is also written in; see `save_figure`.
    """
    from matplotlib.figure import Figure

    rows = [-(-len(tiles) // _COLUMNS) for _, tiles in sections]
    figure = Figure(figsize=(1.6 * _COLUMNS, 2.1 * sum(rows) + 0.4 * len(rows)), dpi=110)
    figure.set_layout_engine("constrained")
    parts = figure.subfigures(len(rows), 1, height_ratios=rows, squeeze=False)[:, 0]
    for part, (title, tiles), count in zip(parts, sections, rows, strict=True):
        part.suptitle(title, fontsize=11, x=0.01, ha="left")
        axes = part.subplots(count, _COLUMNS, squeeze=False).flatten()
        for place in axes:
            place.set_axis_off()
        for place, tile in zip(axes, tiles, strict=False):
            thumbnail = tile.image.copy()
            thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
            place.imshow(thumbnail)
            wrong = bool(tile.true) and tile.true != tile.predicted
            said = f"{_short(tile.predicted)}, {100 * tile.probability:.0f} %"
            said += f"\nis {_short(tile.true)}" if wrong else "\n"
            place.set_title(said, fontsize=8, color=_WRONG if wrong else GREY)
            name = plain(shortened(PurePath(tile.file).name, _FILE))
            place.text(0.5, -0.04, name, transform=place.transAxes, fontsize=6, **_BELOW)
    save_figure(figure, path, plots)


def _short(name: str) -> str:
    return plain(shortened(name, _NAME))
