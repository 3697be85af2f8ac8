"""Transforms without a method's augmentation: to evaluate, and to train classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightly.transforms.torchvision_v2_compatibility import torchvision_transforms as T
from PIL import Image

from erssl.data.bands import RGB, has_pixels
from erssl.data.views.bands import BandView, ResizedBands
from erssl.data.views.draws import ViewSpec
from erssl.data.views.options import Scale


def build_eval_transform(
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bilinear",
    crop_pct: float | None = None,
) -> Any:
    """Make the transform without augmentation, for features and accuracy.

    From 96 pixels up the shorter side is resized to 256/224 of ``image_size`` before the centre is
    cut out, as is usual on ImageNet (256, then 224); small images are used to their edge.

    Args:
        image_size: Side of the result in pixels.
        mean: Channel means to subtract, one value a channel for pixels in 0..1.
        std: Channel deviations to divide by.
        interpolation: ``bilinear``, ``bicubic``, ``nearest`` or ``lanczos``.
        crop_pct: The centre's share of the shorter side, in place of that rule (timm's key).

    Returns:
        A transform from a PIL image, or a tensor of other channels than one or three, to a tensor
        (C, image_size, image_size).
    """
    resized = round(image_size * 256 / 224) if image_size >= 96 else image_size
    if crop_pct is not None:
        resized = int(image_size / crop_pct)  # as timm rounds
    if not has_pixels(len(mean)):
        return ResizedBands(resized, image_size, mean, std, interpolation)
    return _EvalTransform(
        resized,
        [
            T.Resize(resized, T.InterpolationMode(interpolation)),
            T.CenterCrop(image_size),
            T.ToTensor(),
            T.Normalize(mean=list(mean), std=list(std)),
        ],
    )


class _EvalTransform(T.Compose):
    """torchvision's transforms in turn, with a short way for images that need no resize and crop.

    For a small image the calls of four transforms take six times as long as what they do.
    """

    def __init__(self, resized: int, transforms: Sequence[Any]) -> None:
        super().__init__(transforms)
        self._size = resized if transforms[1].size[0] == resized else None
        self._mean = torch.tensor(transforms[3].mean).view(-1, 1, 1)
        self._std = torch.tensor(transforms[3].std).view(-1, 1, 1)

    def _get_name(self) -> str:
        return "Compose"  # the text by which cached features are found

    def forward(self, image: Any) -> Any:
        if not (
            isinstance(image, Image.Image)
            and image.mode == "RGB"
            and image.size == (self._size, self._size)
            and len(self._mean) == RGB
        ):
            return super().forward(image)
        levels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return levels.float().mul_(1 / 255).sub_(self._mean).div_(self._std)


def build_crop_transform(
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    scale: Scale = (0.08, 1.0),
    flip: bool = True,
) -> Any:
    """Make the transform by which classifiers are trained: a random crop, flipped half of the time.

    Args:
        image_size: Side of the result in pixels.
        mean: Channel means to subtract, one value a channel for pixels in 0..1.
        std: Channel deviations to divide by.
        scale: Area of the crop as a share of the image's.
        flip: Whether to flip at all.

    Returns:
        A transform from a PIL image, or a tensor of other channels than one or three, to a tensor
        (C, image_size, image_size).
    """
    if not has_pixels(len(mean)):
        ratio = (3 / 4, 4 / 3)  # torchvision's
        flip_prob = 0.5 if flip else 0.0
        return BandView(ViewSpec(image_size, scale, ratio, "bilinear", flip_prob), mean, std)
    return T.Compose(
        [
            T.RandomResizedCrop(image_size, scale=scale),
            *([T.RandomHorizontalFlip()] if flip else []),
            T.ToTensor(),
            T.Normalize(mean=list(mean), std=list(std)),
        ]
    )
