"""Images in their own shape: random crops to train on, overlapping windows to evaluate with.

As in the linear evaluation of DINOv2 by MMSegmentation (its VOC configuration: short side and crops
of one size, ratios 0.5 to 2, no class above three quarters of a crop; windows that overlap by a
third; DINOv2's "+ms" averages over several scales). Colours are not distorted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from erssl.downstream.segmentation.batches import Inputs, Predict
from erssl.downstream.segmentation.masks import IGNORED

_TRIES = 10  # for a crop of which no class has more than
_MOST = 0.75  # of the pixels


class Windows(Inputs):
    """Keeps the shape of images; the backbone sees squares of them."""

    def __init__(
        self,
        image_size: int,
        preprocessing: Mapping[str, Any],
        stride: int | None = None,
        scale_range: Sequence[float] = (0.5, 2.0),
        scales: Sequence[float] = (1.0,),
        mirrored: bool = False,
    ) -> None:
        """Take the sizes.

        Args:
            image_size: Side of crops and windows, and short side of the images that are evaluated
                at scale 1, pixels.
            preprocessing: As of `Inputs`.
            stride: Pixels from one window to the next; ``None`` for two thirds of a window.
            scale_range: Short sides that training images are resized to at random, in parts of
                ``image_size``.
            scales: Short sides that are evaluated, in the same parts, from 1 up.
            mirrored: Whether each is evaluated mirrored too.
        """
        super().__init__(image_size, preprocessing)
        self.stride = stride or max(1, image_size * 2 // 3)
        self.scale_range, self.scales, self.mirrored = scale_range, tuple(scales), mirrored

    def training(
        self, image: Image.Image, mask: NDArray[np.uint8], draws: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Crop (3, S, S) and its class numbers (S, S); what is beyond the image has no class."""
        low, high = self.scale_range
        size = self._size(image, float(draws.uniform(low, high)))
        whole, classes = self.tensor(image, size), self.classes(mask, size)
        side = self.image_size
        for _ in range(_TRIES):
            top = int(draws.integers(0, max(0, size[1] - side) + 1))
            left = int(draws.integers(0, max(0, size[0] - side) + 1))
            crop = classes[top : top + side, left : left + side]
            if _is_mixed(crop):
                break
        pixels = whole[:, top : top + side, left : left + side]
        beyond = (0, side - crop.shape[1], 0, side - crop.shape[0])
        return F.pad(pixels, beyond), F.pad(crop, beyond, value=IGNORED)

    def whole(self, image: Image.Image) -> list[Tensor]:
        """The image (3, h, w) at every scale."""
        return [self.tensor(image, self._size(image, scale)) for scale in self.scales]

    def scores(
        self,
        predict: Predict,
        images: Sequence[Sequence[Tensor]],
        sizes: Sequence[tuple[int, int]],
    ) -> Iterator[Tensor]:
        """As of `Inputs`: logits, or of several scales the mean probability."""
        for scales, size in zip(images, sizes, strict=True):
            yield self._of_image(predict, scales, size)

    def _of_image(
        self, predict: Predict, scales: Sequence[Tensor], size: tuple[int, int]
    ) -> Tensor:
        each = [(image, False) for image in scales]
        each += [(image, True) for image in scales if self.mirrored]
        if len(each) == 1:
            return self._logits(predict, scales[0], size)
        total = torch.zeros(())
        for image, mirrored in each:
            seen = image.flip(-1) if mirrored else image
            scores = self._logits(predict, seen, size).softmax(dim=0)
            total = total.to(scores) + (scores.flip(-1) if mirrored else scores)
        return total / len(each)

    def _logits(self, predict: Predict, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (C, H, W), the mean of the windows that see a pixel."""
        side, (height, width) = self.image_size, image.shape[-2:]
        tops, lefts = (places(length, side, self.stride) for length in (height, width))
        corners = [(top, left) for top in tops for left in lefts]
        logits = predict(torch.stack([image[:, y : y + side, x : x + side] for y, x in corners]))
        total = logits.new_zeros(logits.shape[1], height, width)
        counted = logits.new_zeros(height, width)
        for (y, x), part in zip(corners, logits, strict=True):
            total[:, y : y + side, x : x + side] += _resized(part, (side, side))
            counted[y : y + side, x : x + side] += 1
        return _resized(total / counted, size)

    def _size(self, image: Image.Image, scale: float) -> tuple[int, int]:
        """Width and height of an image whose short side is ``scale`` times a window."""
        factor = scale * self.image_size / min(image.size)
        least = self.image_size if scale >= 1 else 1
        width, height = (max(least, round(factor * length)) for length in image.size)
        return width, height


def places(length: int, side: int, stride: int) -> list[int]:
    """First pixels of windows along a side; the last one ends with it.

    Example:
        >>> places(600, 512, 341), places(512, 512, 341), places(1200, 512, 341)
        ([0, 88], [0], [0, 341, 682, 688])
    """
    steps = max(0, -(-(length - side) // stride))
    return [min(step * stride, length - side) for step in range(steps + 1)]


def _resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Values (C, H, W) at another height and width."""
    return F.interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0]


def _is_mixed(classes: Tensor) -> bool:
    """Whether there are two classes at least, and none has more than three quarters."""
    counts = torch.bincount(classes[classes != IGNORED].long())
    return int((counts > 0).sum()) > 1 and int(counts.max()) < _MOST * int(counts.sum())
