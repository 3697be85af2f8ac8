"""The data sets: raw images with class numbers, split into training and validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset
from torchvision import datasets as tv

from erssl.data.bands import GREY, RGB
from erssl.data.folders import (
    ImageFiles,
    check_same_classes,
    drop_unreadable,
    hold_out,
    scan_folder,
)
from erssl.data.options import DATASETS, DataOptions, DatasetName, default_options
from erssl.errors import ConfigError, DataError
from erssl.paths import user_path

__all__ = [
    "DATASETS",
    "DataOptions",
    "DatasetName",
    "Datasets",
    "ImageDataset",
    "ImagesInMemory",
    "ImagesWithTargets",
    "TransformedDataset",
    "default_options",
    "load_datasets",
]


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
    """What `load_datasets` found.

    Attributes:
        train: The training images.
        val: The validation images; ``None`` where there is no such split.
        num_classes: Number of classes; 1 without labels.
        class_names: Their names, in the order of the class numbers.
        labelled: Whether class numbers mean anything; without labels no accuracy is possible.
        skipped: ``(path, reason)`` of each file that could not be read and was left out.
        left_out: Number of files of each split's folder that were left out, by reason.
    """

    train: ImageDataset
    val: ImageDataset | None
    num_classes: int
    class_names: tuple[str, ...]
    labelled: bool = True
    skipped: list[tuple[str, str]] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)


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


def load_datasets(options: DataOptions) -> Datasets:
    """Load the images that the options name, and check them.

    Args:
        options: The data set and where it lies.

    Returns:
        Training and validation images without any transform.

    Raises:
        DataError: If the images are not there, cannot be read, or do not fit together.
    """
    if options.name == "digits":
        return in_channels(_digits(), options.channels)
    if options.name == "object":
        from erssl.data.given import datasets_given  # which imports this module

        return datasets_given(options.channels)
    if options.name in ("cifar10", "cifar100"):
        return in_channels(_cifar(options), options.channels)
    return _folders(options)


def in_channels(found: Datasets, channels: int) -> Datasets:
    """Images that are held in memory as RGB, in so many channels.

    Raises:
        ConfigError: If they are neither RGB nor grey.
    """
    if channels == RGB:
        return found
    if channels != GREY:
        raise ConfigError(
            f"data.channels={channels} but these images have {RGB} channels; leave data.channels "
            f"out, or set it to {GREY} for grey."
        )
    val = None if found.val is None else _grey(found.val)
    return replace(found, train=_grey(found.train), val=val)


def _grey(images: Any) -> ImagesInMemory:
    """Pillow's luma of images in memory."""
    pixels = np.asarray(images.pixels if hasattr(images, "pixels") else images.data)
    red, green, blue = (pixels[..., c].astype(np.uint32) for c in range(RGB))
    luma = (red * 19595 + green * 38470 + blue * 7471 + 2**15) >> 16
    return ImagesInMemory(luma.astype(np.uint8), np.asarray(images.targets, dtype=np.int64))


def _digits() -> Datasets:
    """Scikit-learn's handwritten digits, 80 % to train on, every class in the same share."""
    from sklearn.datasets import load_digits  # which no other data set has to wait for
    from sklearn.model_selection import train_test_split

    scans = load_digits()
    grey = np.rint(scans.images * (255 / 16)).astype(np.uint8)  # 17 levels, 0..16
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    targets = scans.target.astype(np.int64)
    # Fixed, whatever the run's seed: two runs must be measured on the same images.
    train, val = train_test_split(
        np.arange(len(targets)), test_size=0.2, stratify=targets, random_state=0
    )
    return Datasets(
        train=ImagesInMemory(pixels[train], targets[train]),
        val=ImagesInMemory(pixels[val], targets[val]),
        num_classes=10,
        class_names=tuple(str(digit) for digit in range(10)),
    )


def _cifar(options: DataOptions) -> Datasets:
    remedy = "name its folder with data.root, and set data.download=true to fetch it there"
    if options.root is None:
        raise DataError(f"data.name={options.name} has no data.root; {remedy}.")
    make: Any = tv.CIFAR10 if options.name == "cifar10" else tv.CIFAR100
    root = user_path(options.root)
    try:
        train, val = (make(root, train=split, download=options.download) for split in (True, False))
    except (RuntimeError, OSError) as error:
        what = (
            f"could not be fetched into data.root={options.root} ({_first_line(error)})"
            if options.download
            else f"is not complete in data.root={options.root}"
        )
        raise DataError(f"data.name={options.name} {what}; {remedy}.") from error
    return Datasets(train, val, len(train.classes), tuple(train.classes))


def _folders(options: DataOptions) -> Datasets:
    train_dir, val_dir = _split_folders(options)
    channels = options.channels
    train = scan_folder("data.train_dir", train_dir, channels)
    val = scan_folder("data.val_dir", val_dir, channels) if val_dir is not None else None
    if val is not None:
        check_same_classes(train, val)
    skipped: list[tuple[str, str]] = []
    if options.verify:
        train, faults = drop_unreadable(train, options.on_error, options.workers, channels)
        skipped += faults
        if val is not None:
            val, faults = drop_unreadable(val, options.on_error, options.workers, channels)
            skipped += faults
    if options.val_fraction is not None:
        train, val = hold_out(train, options.val_fraction)
    return Datasets(
        train=ImageFiles(train.samples, options.exif, channels),
        val=ImageFiles(val.samples, options.exif, channels) if val is not None else None,
        num_classes=len(train.class_names),
        class_names=train.class_names,
        labelled=train.labelled,
        skipped=skipped,
        left_out={"train": train.left_out} | ({"val": val.left_out} if val is not None else {}),
    )


def _split_folders(options: DataOptions) -> tuple[str | Path, str | Path | None]:
    if options.name == "imagefolder":
        if options.train_dir is None:
            raise DataError(
                "data.name=imagefolder has no data.train_dir; name the folder of training "
                "images, one sub-folder a class, or images alone to train without labels."
            )
        return options.train_dir, options.val_dir
    if options.root is None and (options.train_dir is None or options.val_dir is None):
        raise DataError(
            "data.name=imagenet has no data.root; name the folder that holds train and val, each "
            "with one sub-folder a class."
        )
    root = Path(options.root or "")
    return options.train_dir or root / "train", options.val_dir or root / "val"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
