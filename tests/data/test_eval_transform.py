"""The transform without augmentation against torchvision's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from erssl.data import build_eval_transform


@pytest.mark.parametrize("size", [8, 32, 64])
def test_small_images_are_normalised_as_torchvision_does(size: int) -> None:
    """The short way for images without resize and crop gives torchvision's values to the bit."""
    transform = build_eval_transform(size, (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
    reference = v2.Compose(list(transform.transforms))
    pixels = np.random.default_rng(size).integers(0, 256, (20, size, size, 3), dtype=np.uint8)
    for image in map(Image.fromarray, pixels):
        assert torch.equal(transform(image), torch.as_tensor(reference(image)))
    assert repr(transform) == repr(reference)  # by which cached features are found


@pytest.mark.parametrize("shape", [(32, 40, 3), (31, 32, 3), (64, 64, 3), (32, 32)])
def test_other_images_take_all_transforms(shape: tuple[int, ...]) -> None:
    """Images that need a resize or a crop, and grey ones, give what the four transforms give."""
    grey = len(shape) == 2
    mean, std = ((0.5,), (0.2,)) if grey else ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    transform = build_eval_transform(32, mean, std)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    reference = v2.Compose(list(transform.transforms))
    assert torch.equal(torch.as_tensor(transform(image)), torch.as_tensor(reference(image)))
