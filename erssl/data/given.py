"""Data sets that a Python program gives as objects, in place of names and folders."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from erssl.data.bands import GREY, RGB, as_bands, has_pixels
from erssl.data.datasets import Datasets
from erssl.data.images import to_rgb
from erssl.errors import DataError

GivenData: TypeAlias = "Datasets | Dataset[Any] | tuple[Dataset[Any], Dataset[Any]]"
"""Training images, or training and validation images, or both as erssl itself holds them."""

_COMPARED = 16  # items, for each of which an image is read

_GIVEN: ContextVar[Datasets | None] = ContextVar("given_data", default=None)


class GivenImages(Dataset[tuple[Any, int]]):
    """A user's data set, whose items become ``(RGB image, class number)``.

    Attributes:
        targets: Class numbers (N,); zeros without labels.
        labelled: Whether the items have class numbers.
        channels: Of the images that are given: 1 for grey, 3 for RGB; others are tensors (C, H, W).
    """

    channels = RGB

    def __init__(self, dataset: Any) -> None:
        """Take a map-style data set.

        Args:
            dataset: Its items are images, pairs of an image and a class number (what follows is
                left out), or mappings with ``"image"`` and ``"label"``. An image is one of
                Pillow's, or an array or tensor of 8-bit levels, (H, W), (H, W, 3) or (3, H, W); of
                other channels any numbers (H, W, C) or (C, H, W).

        Raises:
            DataError: If it is empty, or its items are something else.
        """
        self.dataset = dataset
        if isinstance(dataset, DataLoader):
            raise DataError(
                "data is a DataLoader, whose items are batches; give its dataset: loader.dataset."
            )
        try:
            count = len(dataset)
        except TypeError as error:
            raise DataError(
                f"data={type(dataset).__name__} has no length; give a map-style data set, with "
                "__len__ and __getitem__."
            ) from error
        if count == 0:
            raise DataError(f"data={type(dataset).__name__} is empty; give images.")
        if not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"data={type(dataset).__name__} has no items; give a map-style data set, with "
                "__len__ and __getitem__."
            )
        image, label = _parts(dataset[0])
        if not isinstance(image, Image.Image | np.ndarray | torch.Tensor):
            raise _no_image(image)
        self.labelled = label is not None
        self.targets = self._labels(count) if self.labelled else np.zeros(count, np.int64)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """One image and its class number."""
        image = as_image(_parts(self.dataset[index])[0], self.channels)
        return image, int(self.targets[index])

    def of_channels(self, channels: int) -> GivenImages:
        """The same images with so many channels.

        Raises:
            DataError: If the first one has others.
        """
        images = copy.copy(self)
        images.channels = channels
        images[0]  # to fail before any work is done
        return images

    def _items_agree(self, listed: Any) -> bool:
        """Whether the class numbers of items are those that an attribute lists.

        The items have others where the data set transforms its targets. Beside torchvision's
        ``target_transform``, which tells, one item of each of the first classes is compared.
        """
        if _transforms_targets(self.dataset):
            return False
        try:
            numbers = np.asarray(listed)
        except ValueError:
            return False
        _, first = np.unique(numbers, return_index=True)
        return numbers.ndim == 1 and all(
            np.array_equal(_parts(self.dataset[int(i)])[1], listed[int(i)])
            for i in first[:_COMPARED]
        )

    def _labels(self, count: int) -> npt.NDArray[np.int64]:
        """Class numbers, from an attribute that the items agree with, else from the items."""
        for name in ("targets", "labels"):
            listed = getattr(self.dataset, name, None)
            one_each = listed is not None and not callable(listed) and len(listed) == count
            if one_each and self._items_agree(listed):
                break
        else:
            listed = [_parts(self.dataset[i])[1] for i in range(count)]
        try:
            labels = np.asarray(listed)
        except ValueError as error:
            raise DataError(_about_labels(self.dataset)) from error
        whole = labels.shape == (count,) and np.issubdtype(labels.dtype, np.integer)
        if not whole or labels.min() < 0:
            raise DataError(_about_labels(self.dataset))
        return labels.astype(np.int64)


@contextmanager
def given_data(data: GivenData | None) -> Iterator[None]:
    """Let ``data=object`` stand for these images inside.

    Raises:
        DataError: If they are no data sets of images, or do not fit together.
    """
    token = _GIVEN.set(None if data is None else datasets_of(data))
    try:
        yield
    finally:
        _GIVEN.reset(token)


def datasets_given(channels: int = RGB) -> Datasets:
    """The images that ``data=object`` stands for.

    Args:
        channels: Of the images.

    Raises:
        DataError: If none were given, or they have other channels.
    """
    datasets = _GIVEN.get()
    if datasets is None:
        raise DataError(
            "data=object is a data set that a Python program gave; give it again, as in "
            "erssl.knn(checkpoint, data=<the data set>), or name other images."
        )
    train, val = datasets.train, datasets.val
    return replace(
        datasets,
        train=train.of_channels(channels) if isinstance(train, GivenImages) else train,
        val=val.of_channels(channels) if isinstance(val, GivenImages) else val,
    )


def datasets_of(data: GivenData) -> Datasets:
    """Training and validation images of the objects that a user has.

    Args:
        data: A data set of images to train on, a pair of data sets to train and to evaluate on, or
            :class:`erssl.data.Datasets`.

    Raises:
        DataError: If they are no data sets of images, or do not fit together.
    """
    if isinstance(data, Datasets):
        return data
    parts = data if isinstance(data, tuple | list) else (data,)
    if any(isinstance(part, torch.Tensor | np.ndarray) for part in parts):
        raise DataError(
            f"data is a {type(data).__name__} of arrays or tensors; give a map-style data set "
            "(torch.utils.data.Dataset), whose items are images."
        )
    if not 1 <= len(parts) <= 2:
        raise DataError(f"data has {len(parts)} data sets; give training and validation images.")
    train, *rest = (GivenImages(part) for part in parts)
    val = rest[0] if rest else None
    labelled = train.labelled and (val is None or val.labelled)
    known = [part.targets for part in (train, val) if part is not None]
    classes = int(max(labels.max() for labels in known)) + 1 if labelled else 1
    names = _class_names(parts[0], classes)
    return Datasets(train, val, classes, names, labelled)


def _transforms_targets(dataset: Any) -> bool:
    """Whether a data set of torchvision's kind changes the targets that it lists."""
    both = getattr(dataset, "transforms", None)  # of image and target at once
    return (
        getattr(dataset, "target_transform", None) is not None
        or getattr(both, "target_transform", both) is not None
    )


def _class_names(dataset: Any, classes: int) -> tuple[str, ...]:
    named = getattr(dataset, "classes", None)
    if isinstance(named, Sequence) and len(named) == classes:
        return tuple(str(name) for name in named)
    return tuple(str(number) for number in range(classes))


def _parts(item: Any) -> tuple[Any, Any]:
    """Image and class number of an item; ``None`` for a class number that it has not."""
    if isinstance(item, Mapping):
        if "image" not in item:
            raise DataError(
                f"data gives mappings with {', '.join(map(str, item))}; give them under 'image' "
                "and 'label'."
            )
        return item["image"], item.get("label")
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def as_image(image: Any, channels: int) -> Any:
    """Make what a user has an image of so many channels.

    Args:
        image: One of Pillow's, an array or a tensor, as of `GivenImages`.
        channels: 1 for grey, 3 for RGB; of others the image is a tensor (C, H, W).

    Raises:
        DataError: If it is no image, or has other channels.
    """
    if not has_pixels(channels):
        try:
            return as_bands(image, channels)
        except ValueError as error:
            raise DataError(f"An image of data cannot be used ({error}).") from error
    rgb = _as_rgb(image)
    return rgb.convert("L") if channels == GREY else rgb


def _as_rgb(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return to_rgb(image)
    levels = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image
    if isinstance(levels, np.ndarray) and levels.dtype == np.uint8:
        if levels.ndim == 3 and levels.shape[0] in (1, 3) and levels.shape[-1] not in (1, 3):
            levels = np.moveaxis(levels, 0, -1)
        if levels.ndim == 3 and levels.shape[-1] == 1:
            levels = levels[..., 0]
        if levels.ndim == 2 or (levels.ndim == 3 and levels.shape[-1] == 3):
            return Image.fromarray(np.ascontiguousarray(levels)).convert("RGB")
    raise _no_image(image)


def _no_image(image: Any) -> DataError:
    kind = getattr(image, "dtype", type(image).__name__)
    shape = f" of shape {tuple(image.shape)}" if hasattr(image, "shape") else ""
    return DataError(
        f"data gives {kind}{shape} where an image is expected; give images before any transform: "
        "Pillow's, or 8-bit arrays or tensors (H, W, 3) or (3, H, W)."
    )


def _about_labels(dataset: Any) -> str:
    return (
        f"data={type(dataset).__name__} has labels that are no class numbers; give whole numbers "
        "from 0, or images alone to train without labels."
    )
