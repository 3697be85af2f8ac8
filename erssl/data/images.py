"""Reading image files of any mode as 8-bit RGB, and finding the ones that cannot be read."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from erssl.data.checked_files import Checked, CheckedFiles, block_digest
from erssl.data.formats import image_formats
from erssl.data.orientation import turned_upright
from erssl.errors import ConfigError, DataError, ErsslWarning

_BLOCK = 8192
_DEPTHS = (8, 12, 16)  # bits that are told apart
_NO_FILE = "a pipe or device"
_SAMPLES, _PHOTOMETRIC, _RGB = 0x0115, 0x0106, 2  # tags of TIFF, and the second's for RGB
_CAMERAS = ("JPEG", "MPO")  # whose further images are previews and the like

Item = TypeVar("Item")


def load_image(path: str | Path, *, upright: bool = False, grey: bool = False) -> Image.Image:
    """Read the image at ``path`` as 8-bit RGB, or as 8-bit grey.

    Grey, palette, CMYK and transparent images become RGB as in torchvision's own loader (alpha
    is dropped); grey of 16 or 32 bits is scaled to 0..255 from 0..65535, or from 0..4095 or 0..255
    where no value of the image is above, where Pillow alone would cut all values above 255; of
    several pages or frames the first is read, and of more than three channels of a TIFF the first
    three, with a warning.

    Args:
        path: A file of one of :func:`erssl.data.formats.image_formats`.
        upright: Whether to turn it as its EXIF orientation says, which changes its size.
        grey: Whether to give one channel: Pillow's luma of colours.

    Returns:
        A PIL image of mode "RGB", or "L", and the file's own size (W, H).

    Raises:
        DataError: If the file is absent, empty, truncated, no image, or of a kind without a
            defined range of values (floating point).
    """
    with reading(path) as image:
        _warn_of_rest(image)
        rgb = to_rgb(turned_upright(image) if upright else image)
        return rgb.convert("L") if grey else rgb


def decode_image(data: bytes, name: str, *, grey: bool = False) -> Image.Image:
    """Read an image from the bytes of its file, turned upright as its EXIF orientation says.

    Args:
        data: The bytes.
        name: What the image is called in messages.
        grey: As of :func:`load_image`.

    Returns:
        As :func:`load_image`.

    Raises:
        DataError: If they are no image that is read, or damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=image_formats()) as image:
            _warn_of_rest(image)
            rgb = to_rgb(turned_upright(image))
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = "empty file" if not data else reason_of(name, error)
        raise DataError(
            f"the image {name} cannot be read ({reason}); repair or remove it."
        ) from error
    return rgb.convert("L") if grey else rgb


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[Image.Image]:
    """Open an image of which so far only the header is read.

    Args:
        path: A file of one of :func:`erssl.data.formats.image_formats`.

    Yields:
        The image as Pillow has it.

    Raises:
        DataError: If the file cannot be opened, or what is done with it fails.
    """
    try:
        with _opened(path) as image:
            yield image
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise DataError(
            f"the image {path} cannot be read ({reason_of(path, error)}); repair or remove it."
        ) from error


def find_unreadable(
    paths: Sequence[str | Path],
    workers: int = 1,
    read: Callable[[str | Path], Any] | None = None,
    several: list[str] | None = None,
    checked: CheckedFiles | None = None,
    further: list[str] | None = None,
) -> list[tuple[str, str]]:
    """Decode every file and tell which ones fail.

    JPEG files are decoded at an eighth of their size: the whole stream is still read, at a
    fraction of the cost.

    Args:
        paths: The files.
        workers: Threads to decode with; Pillow's decoders run side by side.
        read: Reads a file of images that Pillow cannot hold, in place of its decoders.
        several: Takes the files of several pages or frames, of which the first is read; not of
            those that ``read`` reads, whose pages may be channels.
        checked: What is known of blocks of 8,192 files from another time, which are not decoded
            again; ``None`` to decode all.
        further: Takes the TIFF files of more than three channels, likewise.

    Returns:
        ``(path, reason)`` of each unreadable file, in the order of ``paths``.
    """
    several = [] if several is None else several
    further = [] if further is None else further
    if checked is None:
        fault = partial(fault_of_file, read=read, several=several, further=further)
        return [(str(path), reason) for path, reason in find_faults(paths, fault, workers)]
    unreadable = []
    for start in range(0, len(paths), _BLOCK):
        block = paths[start : start + _BLOCK]
        name = block_digest(block)
        seen = checked.known(name)
        if seen is None:
            pages: list[str] = []
            more: list[str] = []
            faults = find_unreadable(block, workers, read, pages, further=more)
            seen = Checked(faults, pages, more)
            checked.keep(name, seen)
        unreadable += seen.unreadable
        several += seen.several
        further += seen.further
    return unreadable


def find_faults(
    items: Sequence[Item], fault: Callable[[Item], str | None], workers: int = 1
) -> list[tuple[Item, str]]:
    """Look at every item and tell which ones fail.

    Args:
        items: What stands for the images, such as their files or their numbers.
        fault: Why an item cannot be read, in a few words; ``None`` where it can.
        workers: Threads to decode with; Pillow's decoders run side by side.

    Returns:
        Item and reason of each that fails, in the order of ``items``.
    """
    faulty: list[tuple[Item, str]] = []
    with _strict_decoding(), ThreadPoolExecutor(max(1, workers)) as pool:
        # In blocks, since a pool makes one object for each pending item.
        for start in range(0, len(items), _BLOCK):
            block = items[start : start + _BLOCK]
            for item, reason in zip(block, pool.map(fault, block), strict=True):
                if reason is not None:
                    faulty.append((item, reason))
    return faulty


def fault_of_bytes(data: bytes) -> str | None:
    """Why the bytes of a file are no image that can be read; ``None`` where they are."""
    if not data:
        return "empty file"
    try:
        with Image.open(io.BytesIO(data), formats=image_formats()) as image:
            _warn_of_rest(image)
            _decode(image)
    except Exception as error:  # decoders raise nearly anything on damaged files
        return reason_of("", error)
    return None


def has_several_pages(image: Image.Image) -> bool:
    """Whether a file holds pages or frames beside the first, such as TIFF, GIF, WebP and PNG do.

    Cameras put previews and depth beside a JPEG's own image; those are no pages.

    Args:
        image: As Pillow opened it.
    """
    return image.format not in _CAMERAS and bool(getattr(image, "is_animated", False))


def has_further_channels(image: Image.Image) -> bool:
    """Whether a TIFF has a channel beside red, green and blue, which are what is read of it.

    Programs that write arrays of four channels call the fourth alpha (Pillow and tifffile do), so
    that nothing tells a band from alpha; CMYK are colours, and all of them are read.

    Args:
        image: As Pillow opened it.
    """
    if not isinstance(image, TiffImageFile):
        return False
    tags = image.tag_v2
    return tags.get(_PHOTOMETRIC) == _RGB and tags.get(_SAMPLES, 1) > 3


def _warn_of_rest(image: Image.Image) -> None:
    """Say what of a file is not read."""
    if has_several_pages(image):
        warn_of_pages()
    if has_further_channels(image):
        warnings.warn(
            "Of TIFF images with more than 3 channels the first three are read, as if a fourth "
            "were alpha; data.channels=<their number>, such as data.channels=4, takes all.",
            ErsslWarning,
            stacklevel=3,
        )


@functools.cache
def warn_of_pages() -> None:
    """Say that of several pages or frames one is read: once in a process and those it forks."""
    warnings.warn(
        "Of images with several pages or frames (TIFF, animated GIF, WebP and PNG) the first "
        "alone is read; save the others as files of their own, or pages that are channels "
        "with data.channels=<their number>.",
        ErsslWarning,
        stacklevel=3,
    )


def _decode(image: Image.Image) -> None:
    """Decode an image only to see that it can be done: JPEG at an eighth of its size."""
    if image.format in _CAMERAS:
        image.draft(None, (1, 1))
        image.load()
    else:
        to_rgb(image)


def _opened(path: str | Path) -> Image.Image:
    if os.path.exists(path) and not (
        os.path.isfile(path) or os.path.isdir(path)
    ):  # a pipe would be waited for
        raise ValueError(_NO_FILE)
    image = Image.open(path, formats=image_formats())
    if image.format == "TIFF":
        # Pillow 13 maps an uncompressed grey one into memory by its turned size, in which the rows
        # of an image with an orientation are mixed up; it maps none without a name.
        image.filename = ""
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Give an image of any mode of Pillow's in RGB, 16 bits as 8.

    Raises:
        ValueError: If its values are floating-point numbers, which have no defined range.
    """
    if image.mode == "F":
        raise ValueError("floating-point values without a defined range")
    if image.mode == "I" or image.mode.startswith("I;"):
        values = np.asarray(image).astype(np.float64)
        most = _full_range(values.max(initial=0))
        scaled = np.clip(values, 0, most) * (255 / most)
        return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns about the direct way; the colours are the same.
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _full_range(largest: float) -> int:
    """The value that becomes 255: the most that 8, 12 or 16 bits hold, whichever are enough.

    Cameras and microscopes of 12 bits leave the upper four of a file's 16 empty.
    """
    bits = next((bits for bits in _DEPTHS if largest < 2**bits), 16)
    if bits < 16 and largest > 0:
        warnings.warn(
            f"Grey images of 16 or 32 bits with no value above {2**bits - 1} are read as of {bits} "
            f"bits: {2**bits - 1} becomes white, and not 65535.",
            ErsslWarning,
            stacklevel=2,
        )
    return int(2**bits - 1)


def fault_of_file(
    path: str | Path,
    read: Callable[[str | Path], Any] | None = None,
    several: list[str] | None = None,
    further: list[str] | None = None,
) -> str | None:
    """Why a file is no image that can be read, in a few words; ``None`` where it is one.

    Args:
        path: The file.
        read: As of :func:`find_unreadable`.
        several: As of :func:`find_unreadable`.
        further: As of :func:`find_unreadable`.
    """
    try:
        if read is not None:
            read(path)
            return None
        with _opened(path) as image:
            pages, channels = has_several_pages(image), has_further_channels(image)
            _decode(image)
    except ConfigError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        cause = error.__cause__ if isinstance(error, DataError) else None
        return reason_of(path, cause if isinstance(cause, Exception) else error)
    if pages and several is not None:
        several.append(str(path))
    if channels and further is not None:
        further.append(str(path))
    return None


def reason_of(path: str | Path, error: Exception) -> str:
    """Why a file cannot be read, in a few words.

    Args:
        path: The file.
        error: What its reader raised.
    """
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission"
    if str(error) == _NO_FILE:
        return _NO_FILE
    with contextlib.suppress(OSError):
        if Path(path).stat().st_size == 0:
            return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextlib.contextmanager
def _strict_decoding() -> Iterator[None]:
    """Undo, for a while, the global switch by which some libraries let truncated files pass."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
