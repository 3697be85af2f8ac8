"""Images that are stored as the bytes of image files inside something else: a tar, a table."""

from __future__ import annotations

import copy
import io
from collections import Counter
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset

from erssl.data.formats import image_formats
from erssl.data.images import (
    decode_image,
    fault_of_bytes,
    fault_of_file,
    find_faults,
    load_image,
    reading,
)
from erssl.data.options import CheckedOptions
from erssl.data.orientation import upright_size
from erssl.data.phases import say_phase
from erssl.errors import DataError, counted, named, printable

SAMPLE = 10_000  # images of a split that are decoded before training where there are more

E = TypeVar("E", bound="EncodedImages")


class EncodedImages(Dataset[tuple[Image.Image, int]]):
    """Images decoded by us, turned upright, each from bytes that a data set holds.

    Attributes:
        targets: Class numbers (N,); zeros without labels.
        fingerprint: What tells that the images have changed.
        grey: Whether to give one channel.
        rows: Where each image lies in what is stored (N,).
    """

    targets: npt.NDArray[np.int64]
    fingerprint: str
    grey: bool
    rows: npt.NDArray[np.int64]

    def stored(self, row: int) -> bytes | str | None:
        """The bytes of an image's file, or the path of one; ``None`` where there is no image."""
        raise NotImplementedError

    def name_of(self, row: int) -> str:
        """What an image is called in messages."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Read one image.

        Raises:
            DataError: If it cannot be read.
        """
        row, target = int(self.rows[index]), int(self.targets[index])
        stored = self.stored(row)
        if stored is None:
            raise DataError(f"there is no image in {self.name_of(row)}; leave it out.")
        if isinstance(stored, str):
            return load_image(stored, upright=True, grey=self.grey), target
        return decode_image(stored, self.name_of(row), grey=self.grey), target

    def fault(self, index: int) -> str | None:
        """Why an image cannot be read, in a few words; ``None`` where it can."""
        try:
            stored = self.stored(int(self.rows[index]))
        except OSError as error:
            return error.strerror or type(error).__name__
        if stored is None:
            return "no image"
        return fault_of_file(stored) if isinstance(stored, str) else fault_of_bytes(stored)

    def size_of(self, index: int) -> tuple[int, int]:
        """Width and height of an image, upright, from the header of its file.

        Raises:
            DataError: If it cannot be opened.
        """
        row = int(self.rows[index])
        stored = self.stored(row)
        if isinstance(stored, str):
            with reading(stored) as image:
                return upright_size(image)
        try:
            with Image.open(io.BytesIO(stored or b""), formats=image_formats()) as image:
                return upright_size(image)
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise DataError(f"the image {self.name_of(row)} cannot be read.") from error

    def chosen(self: E, indices: npt.NDArray[np.int64]) -> E:
        """The same images, those of some numbers alone."""
        images = copy.copy(self)
        images.rows, images.targets = self.rows[indices], self.targets[indices]
        images.fingerprint = repr((self.fingerprint, images.rows.tobytes()))
        return images


def drop_undecodable(
    images: E, key: str, options: CheckedOptions, left_out: Counter[str]
) -> tuple[E, list[tuple[str, str]]]:
    """Decode the images of a split, and leave out, or refuse, those that fail.

    Of more than 10,000 images (or as many as ``verify`` says) an even sample is decoded, unless
    those that fail are to be left out: then every one is.

    Args:
        images: The split.
        key: The option that named it with its value, for messages.
        options: Whether and how it is checked.
        left_out: Counts of what is left out, by reason; those that fail are added.

    Returns:
        The images that can be read, and name and reason of each of the others.

    Raises:
        DataError: If there are such and ``on_error`` is ``"raise"``, or if none can be read.
    """
    if not options.verify:
        return images, []
    every, skips = len(images), options.on_error == "skip"
    count = every if skips else min(every, options.sampled or SAMPLE)
    say_phase(f"Decoding check: {counted(count, 'image')} of {key}.")
    looked_at = np.linspace(0, every - 1, count).round().astype(np.int64)
    faults = find_faults(looked_at.tolist(), images.fault, options.workers)
    if not faults:
        return images, []
    told = [(printable(images.name_of(int(images.rows[i]))), reason) for i, reason in faults]
    listed = named(f"{name}: {reason}" for name, reason in told)
    among = f"{every}" if count == every else f"{count} that were looked at among {every}"
    if len(faults) == count:
        raise DataError(
            f"None of the {among} images of {key} can be read ({listed}); give images that can."
        )
    if not skips:
        raise DataError(
            f"{len(faults)} of the {among} images of {key} cannot be read ({listed}); repair or "
            "remove them, or set data.on_error=skip to leave them out."
        )
    left_out["unreadable"] += len(faults)
    return images.chosen(np.delete(np.arange(every), [i for i, _ in faults])), told
