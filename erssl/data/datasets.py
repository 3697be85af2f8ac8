"""What a data set gives: raw images with class numbers, split into training and validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset

from erssl.data.file_list import targets_of


class ImagesWithTargets(Protocol):
    """A map-style data set of ``(RGB image, target)``: a class number, or marks of classes."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int, /) -> tuple[Image.Image, Any]:
        """One image and its target."""


class ImageDataset(ImagesWithTargets, Protocol):
    """A map-style data set of ``(RGB image, class number)``."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        """One image and its class number."""


@dataclass(frozen=True)
class Datasets:
    """The images of a data set, without any transform.

    Attributes:
        train: The training images.
        val: The validation images; ``None`` where there is no such split.
        num_classes: Number of classes; 1 without labels.
        class_names: Their names, in the order of the class numbers.
        labelled: Whether class numbers mean anything; without labels no accuracy is possible.
        skipped: ``(path, reason)`` of each file that could not be read and was left out.
        left_out: Number of files of each split's folder that were left out, by reason.
        several_pages: Number of images of each split's folder with several pages or frames, of
            which the first is read; known where every image has been decoded.
        further_channels: Number of TIFF images with more than three channels, likewise.
        labelled_train: Labelled images that stand for the training ones wherever accuracy is
            measured, where those of ``train`` have no labels or are some of them; ``None`` for
            ``train`` itself.
    """

    train: ImageDataset
    val: ImageDataset | None
    num_classes: int
    class_names: tuple[str, ...]
    labelled: bool = True
    skipped: list[tuple[str, str]] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    several_pages: dict[str, int] = field(default_factory=dict)
    further_channels: dict[str, int] = field(default_factory=dict)
    labelled_train: ImageDataset | None = None

    def evaluated(self) -> Datasets:
        """What accuracy is measured with: the labelled images in place of unlabelled ones."""
        if self.labelled_train is None:
            return self
        return replace(self, train=self.labelled_train, labelled_train=None)


class ImagesInMemory(Dataset[tuple[Image.Image, int]]):
    """Images held as one array."""

    def __init__(self, pixels: npt.NDArray[np.uint8], targets: npt.NDArray[np.int64]) -> None:
        """Take pixels (N, H, W, 3), or (N, H, W) of grey, of 8 bit and class numbers (N,)."""
        self.pixels = pixels
        self.targets = targets

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """One image and its class number."""
        return Image.fromarray(self.pixels[index]), int(self.targets[index])


def labels_of(images: ImageDataset) -> npt.NDArray[np.int64]:
    """Class numbers (N,) of all images, without reading one."""
    targets: Any = getattr(images, "targets", None)
    if targets is None:
        samples: Any = getattr(images, "samples")  # noqa: B009 - the protocol does not name it
        return targets_of(samples)
    return np.asarray(targets, dtype=np.int64)


def greyed(datasets: Datasets) -> Datasets:
    """Pillow's luma of RGB images that are held in memory."""
    val = None if datasets.val is None else _luma(datasets.val)
    return replace(datasets, train=_luma(datasets.train), val=val)


def _luma(images: Any) -> ImagesInMemory:
    pixels = np.asarray(images.pixels if hasattr(images, "pixels") else images.data)
    red, green, blue = (pixels[..., c].astype(np.uint32) for c in range(3))
    luma = (red * 19595 + green * 38470 + blue * 7471 + 2**15) >> 16
    return ImagesInMemory(luma.astype(np.uint8), np.asarray(images.targets, dtype=np.int64))


class TransformedDataset(Dataset[tuple[Any, Any]]):
    """A data set whose images pass a transform."""

    def __init__(self, images: ImagesWithTargets, transform: Callable[[Image.Image], Any]) -> None:
        """Take the images and a transform to a tensor or a list of views."""
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """One transformed image and its target."""
        image, target = self.images[index]
        return self.transform(image), target
