"""What a step of training and of evaluation sees: square images, and masks of class numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from erssl.downstream.detection.image_files import open_image
from erssl.downstream.segmentation.data import SegmentationData

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_ORDER, _FLIP = 0, 1  # what a random number is for


class SquareImages:
    """Resizes images to a square, whatever their shape, and normalises them."""

    def __init__(self, image_size: int, preprocessing: Mapping[str, Any]) -> None:
        """Take what came with the weights; ImageNet's statistics where nothing did.

        Args:
            image_size: Side, pixels.
            preprocessing: ``mean``, ``std`` and ``interpolation``.
        """
        self.image_size = image_size
        said = {name: preprocessing.get(name) or default for name, default in _IMAGENET.items()}
        self.mean, self.std = (torch.tensor(said[name]).view(3, 1, 1) for name in ("mean", "std"))
        name = preprocessing.get("interpolation") or "bilinear"
        self.resampling = Image.Resampling[str(name).upper()]

    def __call__(self, image: Image.Image) -> Tensor:
        """Give the tensor (3, S, S) of an RGB image."""
        side = (self.image_size, self.image_size)
        values = np.array(image.resize(side, self.resampling), dtype=np.float32) / 255
        return (torch.from_numpy(values).permute(2, 0, 1) - self.mean) / self.std


class TrainingDraws(Dataset[tuple[Tensor, Tensor]]):
    """Image number i of a training: each epoch is a permutation, and half are mirrored.

    Item i is the tensor (3, S, S) and class numbers (S, S), by the nearest pixel of the mask. It
    follows from seed and i alone, so that a training that goes on sees what it would have seen.
    """

    def __init__(
        self, data: SegmentationData, square: SquareImages, length: int, seed: int, flip: bool
    ) -> None:
        """Draw from the data.

        Args:
            data: Training images.
            square: Makes tensors.
            length: Images of the whole training.
            seed: Of order and mirroring.
            flip: Whether half of the images are mirrored.
        """
        self.data, self.square, self.length, self.seed, self.flip = data, square, length, seed, flip
        self._order = lru_cache(maxsize=2)(self._epoch)

    def __len__(self) -> int:
        """Images of the whole training."""
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image and mask of a place in the training."""
        epoch, place = divmod(index, len(self.data.images))
        number = int(self._order(epoch)[place])
        image = self.square(open_image(self.data.images[number]))
        side = (self.square.image_size, self.square.image_size)
        nearest = Image.fromarray(self.data.mask(number)).resize(side, Image.Resampling.NEAREST)
        mask = torch.from_numpy(np.array(nearest))
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


class WholeImages(Dataset[tuple[Tensor, Tensor]]):
    """Every image once: the tensor (3, S, S), and class numbers (H, W) at the mask's own size."""

    def __init__(self, data: SegmentationData, square: SquareImages) -> None:
        """Take all images of a split."""
        self.data, self.square = data, square

    def __len__(self) -> int:
        """Number of images."""
        return len(self.data.images)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Image and mask."""
        image = self.square(open_image(self.data.images[number]))
        return image, torch.from_numpy(self.data.mask(number))


def keep_sizes(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """Collate images (N, 3, S, S); masks stay a list, since their sizes differ."""
    return torch.stack([image for image, _ in items]), [mask for _, mask in items]
