"""Image files of a detection data set: turned upright, and compared with their annotations.

Labels of detection are places in the image, so both backends see an image as its EXIF orientation
says, which is how viewers and annotation tools show it and how Detectron2 reads it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from erssl.data.images import find_unreadable, load_image, reading
from erssl.data.orientation import UPRIGHT, orientation_of, upright_size
from erssl.downstream.detection.coco_data import CocoImage
from erssl.errors import DataError, named

_BLOCK = 8192  # a pool makes one object for each pending file


def open_image(image: CocoImage) -> Image.Image:
    """Read an image as 8-bit RGB, turned upright by its EXIF orientation.

    Raises:
        DataError: If that fails, or it has not the size that the annotations say.
    """
    pixels = load_image(image.path, upright=True)
    if pixels.size != (image.width, image.height):
        raise DataError(size_fault(image))
    return pixels


def check_images(data: Any, workers: int) -> tuple[str, ...]:
    """Decode every image once, and compare its size with the annotations.

    Args:
        data: ``CocoData``, or another reader's with ``images`` and ``name``.
        workers: Threads to read with.

    Returns:
        What was noticed, one sentence each.

    Raises:
        DataError: If one cannot be read, or has another size.
    """
    faults = find_unreadable([image.path for image in data.images], workers)
    if faults:
        listed = named(f"{os.path.basename(path)}: {reason}" for path, reason in faults)
        folder = os.path.dirname(faults[0][0])
        raise DataError(
            f"{len(faults)} of the {len(data.images)} images of {data.name} in {folder} cannot "
            f"be read ({listed}); repair them, or remove them from the annotations."
        )
    return check_sizes(data.images, data.name, workers)


def check_sizes(images: Sequence[CocoImage], name: str, workers: int) -> tuple[str, ...]:
    """Compare every image's size with the annotations, by its header alone.

    Args:
        images: What the annotations say.
        name: What messages call the data set.
        workers: Threads to read with.

    Returns:
        How many are turned upright, in a sentence, if any.

    Raises:
        DataError: If an image has another size, or no header.
    """
    headers = _headers(images, workers)
    wrong = [
        image
        for image, (size, _) in zip(images, headers, strict=True)
        if size != (image.width, image.height)
    ]
    if wrong:
        more = f" {len(wrong)} images of {name} are like this." if len(wrong) > 1 else ""
        raise DataError(f"{size_fault(wrong[0])}{more}")
    turned = [
        image.path.name
        for image, (_, orientation) in zip(images, headers, strict=True)
        if orientation != UPRIGHT
    ]
    if not turned:
        return ()
    return (
        f"{len(turned)} images of {name} are turned upright by their EXIF orientation, as in "
        f"Detectron2 ({named(turned)}): their annotations must be of the image as viewers show it.",
    )


def size_fault(image: CocoImage) -> str:
    """A sentence on an image whose annotations are of another size.

    Args:
        image: As annotated; its header is read.
    """
    size, orientation = _header(image)
    says = f"the annotations say {image.width} x {image.height}"
    if orientation == UPRIGHT:
        return f"{image.path} has {size[0]} x {size[1]} pixels but {says}; repair one of them."
    advice = "repair one of them"
    if size == (image.height, image.width):
        advice = (
            "they look as if they were made without it: annotate the image as viewers show it, or "
            "take the orientation out of the file"
        )
    return (
        f"{image.path} has {size[0]} x {size[1]} pixels when its EXIF orientation {orientation} "
        f"turns it upright, but {says}; {advice}."
    )


def _headers(images: Sequence[CocoImage], workers: int) -> list[tuple[tuple[int, int], int]]:
    headers: list[tuple[tuple[int, int], int]] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(images), _BLOCK):
            headers += pool.map(_header, images[start : start + _BLOCK])
    return headers


def _header(image: CocoImage) -> tuple[tuple[int, int], int]:
    """Width and height turned upright, and EXIF orientation."""
    with reading(image.path) as file:
        return upright_size(file), orientation_of(file)
