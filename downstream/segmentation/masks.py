"""Masks of class numbers: VOC's palette images, and the objects of a COCO file drawn into one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from erssl.data.images import reading
from erssl.data.orientation import UPRIGHT, orientation_of, turned_upright, upright_size
from erssl.downstream.detection.coco_data import CocoImage
from erssl.downstream.detection.masks import draw_mask
from erssl.errors import DataError

IGNORED = 255  # pixels of no class: VOC's void outlines, COCO's crowds
_MODES = ("P", "L")  # whose bytes are numbers of classes


def mask_size(path: Path) -> tuple[int, int]:
    """Width and height of a mask turned upright by its EXIF orientation, by its header.

    Raises:
        DataError: If it cannot be read, or is no mask of class numbers.
    """
    with reading(path) as file:
        if file.mode not in _MODES:
            raise DataError(
                f"{path} is an image of mode {file.mode} and no mask of class numbers; give a PNG "
                "with a palette, or of 8-bit grey, whose values are numbers of classes."
            )
        return upright_size(file)


def is_turned(path: Path) -> bool:
    """Whether a mask file carries an EXIF orientation, by its header."""
    with reading(path) as file:
        return orientation_of(file) != UPRIGHT


def read_mask_file(path: Path, classes: int) -> NDArray[np.uint8]:
    """Read class numbers (height, width) of a palette image; 255 is no class.

    A mask that carries an EXIF orientation is turned upright by it, as images are.

    Args:
        path: The PNG.
        classes: Number of classes.

    Raises:
        DataError: If it is no mask, or has a number beyond the classes.
    """
    mask_size(path)
    with reading(path) as file:
        mask: NDArray[np.uint8] = np.array(turned_upright(file), dtype=np.uint8)
    present = np.unique(mask)
    beyond = present[(present >= classes) & (present != IGNORED)]
    if len(beyond):
        raise DataError(
            f"{path} has class number {int(beyond[-1])} but there are names of the classes 0 to "
            f"{classes - 1} ({IGNORED} is no class); repair it, or name all with class_names=."
        )
    return mask


def draw_objects(image: CocoImage) -> NDArray[np.uint8]:
    """Draw the objects of a COCO image as class numbers (height, width).

    0 is the background and 1 the first category. Crowds are 255, below all objects. Of objects that
    overlap the one of fewer pixels is on top, of equally many the one that is listed later.

    Args:
        image: With masks.
    """
    drawn = [
        (draw_mask(each.segmentation, image.height, image.width).astype(bool), each)
        for each in image.instances
        if each.segmentation is not None and not each.empty
    ]
    drawn.sort(key=lambda pair: (not pair[1].crowd, -int(pair[0].sum())))  # stable
    mask = np.zeros((image.height, image.width), np.uint8)
    for region, each in drawn:
        mask[region] = IGNORED if each.crowd else each.label + 1
    return mask
