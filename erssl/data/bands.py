"""Images of other than one or three channels: microscopes, satellites, colour with depth.

They have no kind of Pillow's, and their values are no levels of a screen: an image is a tensor
(C, H, W) of float32, of which nothing is cut off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from erssl.data.images import reading, reason_of, warn_of_pages
from erssl.data.orientation import turned_upright
from erssl.errors import ConfigError, DataError, installing

GREY, RGB = 1, 3  # channels that Pillow holds
ARRAY, TIFF = (".npy",), (".tif", ".tiff")
#: Pillow's modes that have so many channels and no values of another meaning.
_MODES = {"LA": 2, "RGBA": 4}
_FULL = {"uint8": 255.0, "uint16": 65535.0}


def has_pixels(channels: int) -> bool:
    """Whether images of so many channels are Pillow's, of pixels in 0..1; others are tensors."""
    return channels in (GREY, RGB)


def load_bands(path: str | Path, channels: int, *, upright: bool = False) -> Tensor:
    """Read an image of so many channels.

    ``.npy`` files hold (H, W, C) or (C, H, W), the former where both fit; TIFF files are read by
    tifffile, whose axes tell; of what Pillow reads, grey with transparency has two channels and
    RGB with transparency has four.

    Args:
        path: The file.
        channels: C, other than 1 and 3.
        upright: Whether to turn what Pillow reads as its EXIF orientation says.

    Returns:
        Values (C, H, W): 8 bits as 0..1 of 255, 16 bits without sign as 0..1 of 65535, every other
        kind of numbers as they are.

    Raises:
        ConfigError: If tifffile is needed and not installed.
        DataError: If the file cannot be read, has other channels, or values that are not finite.
    """
    ending = Path(path).suffix.lower()
    try:
        if ending in ARRAY:
            return as_bands(np.load(path, allow_pickle=False), channels)
        if ending in TIFF:
            return _of_tiff(path, channels)
    except ConfigError:
        raise
    except Exception as error:  # readers raise nearly anything on damaged files
        raise DataError(
            f"the image {path} cannot be read ({reason_of(path, error)}); repair or remove it."
        ) from error
    with reading(path) as image:
        if _MODES.get(image.mode) != channels:
            raise ValueError(_other(len(image.getbands()), channels))
        return as_bands(np.asarray(turned_upright(image) if upright else image), channels)


def as_bands(values: Any, channels: int, axis: int | None = None) -> Tensor:
    """Make an array or a tensor an image (C, H, W) of so many channels.

    Args:
        values: (H, W, C) or (C, H, W) of any numbers; (H, W) is one channel.
        channels: C.
        axis: Which one is of channels; ``None`` takes the last one where it fits.

    Returns:
        Values of float32, as of :func:`load_bands`.

    Raises:
        ValueError: If there are other channels, no numbers, or values that are not finite.
    """
    array: npt.NDArray[Any] = np.asarray(
        values.detach().cpu() if isinstance(values, Tensor) else values
    )
    if array.ndim == 2:
        array, axis = array[None], 0
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"its shape {array.shape} is not that of height, width and channels")
    if axis is None:
        smallest = 0 if array.shape[0] < array.shape[2] else 2  # to be named where none fits
        axis = next((a for a in (2, 0) if array.shape[a] == channels), smallest)
    array = np.moveaxis(array, axis, 0)
    if len(array) != channels:
        shape = " x ".join(str(length) for length in np.shape(values))
        raise ValueError(f"{_other(len(array), channels)} (shape {shape})")
    if array.dtype.kind not in "uif":
        raise ValueError(f"its values are of type {array.dtype}, not numbers")
    scaled = array.astype(np.float32) / np.float32(_FULL.get(array.dtype.name, 1.0))
    if not np.isfinite(scaled).all():
        raise ValueError("it has values that are not finite")
    return torch.from_numpy(np.ascontiguousarray(scaled))


def as_shown(image: Any) -> Image.Image:
    """Make an RGB image to look at.

    Args:
        image: One of Pillow's, or values (C, H, W). Of the latter the first three channels are
            shown, of two the first, each from its least value to its greatest.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    values = image[:3] if len(image) > 2 else image[:1].expand(3, -1, -1)
    least, most = values.amin(dim=(1, 2), keepdim=True), values.amax(dim=(1, 2), keepdim=True)
    levels = (values - least) / (most - least).clamp_min(torch.finfo(values.dtype).tiny) * 255
    return Image.fromarray(levels.round().to(torch.uint8).permute(1, 2, 0).numpy())


def _of_tiff(path: str | Path, channels: int) -> Tensor:
    try:
        import tifffile
    except ImportError as error:
        raise ConfigError(
            f"data.channels={channels} with TIFF files needs tifffile, which is not installed; "
            f"{installing('tiff')}."
        ) from error
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        axes, values = series.axes, series.asarray()
        if len(file.series) > 1:
            warn_of_pages()
    kept = [i for i, length in enumerate(values.shape) if axes[i] in "YX" or length > 1]
    values = values.reshape([values.shape[i] for i in kept])
    # Samples or channels by name; of pages without a name tifffile cannot know what they are.
    named = [place for place, i in enumerate(kept) if axes[i] in "SC"]
    return as_bands(values, channels, named[0] if len(named) == 1 else None)


def _other(held: int, asked: int) -> str:
    return f"it has {held} {'channel' if held == 1 else 'channels'} and data.channels is {asked}"
