"""Images whose size is known before they are decoded, so that crops may come first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from erssl.data.datasets import ImageDataset
from erssl.data.folders import ImageFiles
from erssl.data.images import load_image, reading
from erssl.data.orientation import UPRIGHT, orientation_of, turned_pixels, upright_size

Pixels = npt.NDArray[np.uint8]

# Below twice a crop's output size, a JPEG decoded smaller and then resized differs visibly from one
# that is resized from its full size (Pillow's "reducing_gap", whose value for thumbnails is 2).
_MARGIN = 2
_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # as load_image
_FLAGS = {  # "grayscale" is without IMREAD_COLOR, which is BGR and excludes IMREAD_COLOR_RGB
    1: _AS_STORED,
    2: _AS_STORED | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: _AS_STORED | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: _AS_STORED | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_END_OF_JPEG = b"\xff\xd9"


@dataclass(frozen=True)
class KnownSize:
    """An image to decode.

    Attributes:
        height: Of the whole image in pixels.
        width: Of the whole image in pixels.
        decode: From a reduction of 1, 2, 4 or 8, to which no format but JPEG keeps, to RGB pixels
            (h, w, 3).
        held: Bytes of memory that it takes up before.
    """

    height: int
    width: int
    decode: Callable[[int], Pixels]
    held: int


def known_size(images: ImageDataset, index: int) -> tuple[KnownSize, int]:
    """Give an image of a data set, decoded as late as it can be, and its class number.

    Raises:
        DataError: If it is a file that cannot be read.
    """
    if isinstance(images, ImageFiles):
        path, target = images.samples[index]
        known = _of_file(path, images.upright)
        if images.channels == 1:
            coloured = known.decode
            known = replace(known, decode=lambda reduced: _greyed(coloured(reduced)))
        return known, target
    image, target = images[index]
    width, height = image.size
    rgb = image.convert("RGB")  # grey: three channels alike
    return KnownSize(height, width, lambda _: _pixels(rgb), 3 * height * width), target


def reduction(crops: Iterable[tuple[int, int, int]]) -> int:
    """Find by how much an image may be decoded smaller.

    Args:
        crops: Height and width of each crop in pixels of the whole image, and the side that it
            is resized to.

    Returns:
        The largest of 1, 2, 4 and 8 that leaves twice of each crop's output size.
    """
    room = min(min(height, width) / (_MARGIN * size) for height, width, size in crops)
    return max(d for d in _FLAGS if d == 1 or d <= room)


def _of_file(path: str | Path, upright: bool) -> KnownSize:
    with reading(path) as image:
        width, height = upright_size(image) if upright else image.size
        orientation = orientation_of(image) if upright else UPRIGHT
        data = _plain_jpeg(image)

    def decode(reduced: int) -> Pixels:
        pixels = None if data is None else _decoded(data, reduced)
        if pixels is None:
            return _pixels(load_image(path, upright=upright))
        return pixels if orientation == UPRIGHT else turned_pixels(pixels, orientation)

    return KnownSize(height, width, decode, held=len(data or b""))


def _plain_jpeg(image: Image.Image) -> bytes | None:
    """A JPEG's bytes if OpenCV gives the pixels that Pillow does; else ``None``.

    OpenCV fills with grey what a truncated file lacks, where Pillow raises an error.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    file = image.fp  # type: ignore[attr-defined]
    file.seek(0)
    data: bytes = file.read()
    return data if data[-64:].rstrip(b"\0").endswith(_END_OF_JPEG) else None


def _decoded(data: bytes, reduced: int) -> Pixels | None:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS[reduced])
    except cv2.error:  # what OpenCV refuses, Pillow reads or explains
        return None
    return pixels  # type: ignore[return-value]


def _greyed(pixels: Pixels) -> Pixels:
    """Three channels of Pillow's luma."""
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return cv2.cvtColor(luma, cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]


def _pixels(image: Image.Image) -> Pixels:
    return np.array(image)  # a copy, since torch takes no read-only memory
