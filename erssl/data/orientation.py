"""The orientation that cameras write beside the pixels (EXIF tag 0x0112), and how it is undone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

_TAG = 0x0112
_WIDTH, _HEIGHT = 0x0100, 0x0101  # tags of TIFF
UPRIGHT = 1
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where the file says none, or none that is defined.

    Args:
        image: As Pillow opened it, before it is converted, which loses the tag of some formats.
    """
    try:
        value = image.getexif().get(_TAG)
    except Exception:  # Pillow's reader raises nearly anything on damaged tags
        return UPRIGHT
    return value if value in _TURNS else UPRIGHT


def turned_upright(image: Image.Image) -> Image.Image:
    """The image as viewers show it, whatever its mode."""
    image.load()  # Pillow itself turns a TIFF then, and takes its tag away
    turn = _TURNS.get(orientation_of(image))
    return image if turn is None else image.transpose(turn)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the image turned upright, from its header alone."""
    orientation = orientation_of(image)
    width, height = image.size
    if image.format == "TIFF" and orientation in _SWAPS_SIDES:
        # Pillow 13 gives the turned size before it has loaded and turned it, others the stored one.
        width, height = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]  # type: ignore[attr-defined]
    return (height, width) if orientation in _SWAPS_SIDES else (width, height)


def turned_pixels(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Turn pixels (H, W, 3) upright, as `turned_upright` does an image.

    Args:
        pixels: As stored.
        orientation: EXIF orientation, 1 to 8.

    Returns:
        Pixels in an order of memory of their own.
    """
    turned = pixels.swapaxes(0, 1) if orientation in _SWAPS_SIDES else pixels
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)
