"""Some of the images of a data set, by their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from erssl.data.datasets import ImageDataset, ImagesInMemory, labels_of
from erssl.data.encoded import EncodedImages
from erssl.data.file_list import chosen
from erssl.data.folders import ImageFiles


class SomeImages(Dataset[tuple[Any, int]]):
    """Images of a data set of a kind that is not ours."""

    def __init__(self, images: ImageDataset, indices: npt.NDArray[np.int64]) -> None:
        """Take the images and the numbers (N,) of some, in order."""
        self.images, self.indices = images, indices
        self.targets = labels_of(images)[indices]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """One image and its class number."""
        return self.images[int(self.indices[index])]


def part_of(images: Any, indices: npt.NDArray[np.int64]) -> Any:
    """Some images of a data set, in a data set that pipelines know how to read as they do it.

    Args:
        images: Files, bytes of files, or an array in memory; or any data set with ``targets``.
        indices: Numbers (N,) of the images, in their order.

    Returns:
        Of our kinds the same kind, with all that it says of its images: how files are read, what
        tells that they have changed, and names that are shared and not copied. Arrays as
        torchvision holds them become ``ImagesInMemory``, and others ``SomeImages``.
    """
    if isinstance(images, EncodedImages):
        return images.chosen(indices)
    if isinstance(images, ImageFiles):
        return ImageFiles(chosen(images.samples, indices), images.upright, images.channels)
    for held in ("pixels", "data"):  # ours, torchvision's
        pixels = getattr(images, held, None)
        if isinstance(pixels, np.ndarray):
            return ImagesInMemory(pixels[indices], labels_of(images)[indices])
    return SomeImages(images, indices)
