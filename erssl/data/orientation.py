"""The orientation that cameras write beside the pixels (EXIF tag 0x0112), and how it is undone."""

from __future__ import annotations

from PIL import Image

_TAG = 0x0112
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
    turn = _TURNS.get(orientation_of(image))
    return image if turn is None else image.transpose(turn)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the image turned upright, from its header alone."""
    width, height = image.size
    return (height, width) if orientation_of(image) in _SWAPS_SIDES else (width, height)
