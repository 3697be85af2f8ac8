"""What a step of training and of evaluation sees: images, and masks of class numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from erssl.downstream.detection.image_files import open_image
from erssl.downstream.segmentation.data import SegmentationData

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
Predict = Callable[[Tensor], Tensor]  # from squares (N, 3, S, S) to logits (N, C, h, w)
_ORDER, _FLIP, _CROP = 0, 1, 2  # what a random number is for


class Inputs(ABC):
    """What a backbone sees of images.

    Attributes:
        image_size: Side S of the squares that it sees, pixels.
    """

    def __init__(self, image_size: int, preprocessing: Mapping[str, Any]) -> None:
        """Take what came with the weights; ImageNet's statistics where nothing did.

        Args:
            image_size: Side of the squares, pixels.
            preprocessing: ``mean``, ``std`` and ``interpolation``.
        """
        self.image_size = image_size
        said = {name: preprocessing.get(name) or default for name, default in _IMAGENET.items()}
        self.mean, self.std = (torch.tensor(said[name]).view(3, 1, 1) for name in ("mean", "std"))
        name = preprocessing.get("interpolation") or "bilinear"
        self.resampling = Image.Resampling[str(name).upper()]

    def tensor(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        """Give the tensor (3, H, W) of an RGB image.

        Args:
            image: The image.
            size: Width and height that it is resized to.
        """
        values = np.array(image.resize(size, self.resampling), dtype=np.float32) / 255
        return (torch.from_numpy(values).permute(2, 0, 1) - self.mean) / self.std

    @staticmethod
    def classes(mask: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
        """Give class numbers (H, W) of a mask that is resized by its nearest pixels.

        Args:
            mask: Class numbers.
            size: Width and height that it is resized to.
        """
        nearest = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(nearest))

    @abstractmethod
    def training(
        self, image: Image.Image, mask: NDArray[np.uint8], draws: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Give the tensor (3, S, S) and class numbers (S, S) of an image to train on.

        Args:
            image: In RGB.
            mask: Its class numbers (H, W).
            draws: Of what is drawn by chance.
        """

    @abstractmethod
    def whole(self, image: Image.Image) -> list[Tensor]:
        """Give the tensors (3, h, w) of an image to evaluate on."""

    @abstractmethod
    def scores(
        self,
        predict: Predict,
        images: Sequence[Sequence[Tensor]],
        sizes: Sequence[tuple[int, int]],
    ) -> Iterator[Tensor]:
        """Give scores (C, H, W) of the classes, image by image.

        Args:
            predict: Gives logits (N, C, h, w) of any number of squares.
            images: What `whole` gave of each, on the device.
            sizes: Height H and width W of each.
        """


class SquareImages(Inputs):
    """Resizes images to a square, whatever their shape."""

    def training(
        self, image: Image.Image, mask: NDArray[np.uint8], draws: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """As of `Inputs`, the mask by its nearest pixels; nothing is drawn."""
        side = (self.image_size, self.image_size)
        return self.tensor(image, side), self.classes(mask, side)

    def whole(self, image: Image.Image) -> list[Tensor]:
        """As of `Inputs`: one square."""
        return [self.tensor(image, (self.image_size, self.image_size))]

    def scores(
        self,
        predict: Predict,
        images: Sequence[Sequence[Tensor]],
        sizes: Sequence[tuple[int, int]],
    ) -> Iterator[Tensor]:
        """As of `Inputs`: logits of all images at once."""
        together = predict(torch.stack([image for (image,) in images]))
        for logits, size in zip(together, sizes, strict=True):
            yield F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]


class TrainingDraws(Dataset[tuple[Tensor, Tensor]]):
    """Image number i of a training: each epoch is a permutation, and half are mirrored.

    Item i is the tensor (3, S, S) and class numbers (S, S). It follows from seed and i alone, so
    that a training that goes on sees what it would have seen.
    """

    def __init__(
        self, data: SegmentationData, inputs: Inputs, length: int, seed: int, flip: bool
    ) -> None:
        """Draw from the data.

        Args:
            data: Training images.
            inputs: Makes tensors.
            length: Images of the whole training.
            seed: Of order and mirroring.
            flip: Whether half of the images are mirrored.
        """
        self.data, self.inputs, self.length, self.seed, self.flip = data, inputs, length, seed, flip
        self._order = lru_cache(maxsize=2)(self._epoch)

    def __len__(self) -> int:
        """Images of the whole training."""
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and mask of a place in the training."""
        epoch, place = divmod(index, len(self.data.images))
        number = int(self._order(epoch)[place])
        draws = np.random.default_rng([self.seed, _CROP, index])
        image, mask = self.inputs.training(
            open_image(self.data.images[number]), self.data.mask(number), draws
        )
        if self.flip and np.random.default_rng([self.seed, _FLIP, index]).random() < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        return image, mask

    def __getstate__(self) -> dict[str, Any]:
        """What a loader process gets: all but the cache."""
        return {name: value for name, value in vars(self).items() if name != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with an empty cache."""
        vars(self).update(state)
        self._order = lru_cache(maxsize=2)(self._epoch)

    def _epoch(self, epoch: int) -> Any:
        generator = np.random.default_rng([self.seed, _ORDER, epoch])
        return generator.permutation(len(self.data.images))


class WholeImages(Dataset[tuple[list[Tensor], Tensor]]):
    """Every image once: its tensors, and class numbers (H, W) at the mask's own size."""

    def __init__(self, data: SegmentationData, inputs: Inputs) -> None:
        """Take all images of a split."""
        self.data, self.inputs = data, inputs

    def __len__(self) -> int:
        """Number of images."""
        return len(self.data.images)

    def __getitem__(self, number: int) -> tuple[list[Tensor], Tensor]:
        """Tensors and mask."""
        tensors = self.inputs.whole(open_image(self.data.images[number]))
        return tensors, torch.from_numpy(self.data.mask(number))


def keep_sizes(
    items: list[tuple[list[Tensor], Tensor]],
) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Collate tensors and masks as lists, since their sizes differ."""
    return [tensors for tensors, _ in items], [mask for _, mask in items]
