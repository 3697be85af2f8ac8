"""Transforms: against torchvision's own functions, step by step."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from erssl.downstream.transfer.transforms import (
    TransferPreprocessing,
    build_finetune_transform,
    build_linear_transform,
    preprocessing_of,
)
from erssl.errors import ConfigError

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8))


def normalized(image, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    return TF.normalize(TF.to_tensor(image), list(mean), list(std))


def test_linear_is_resize_224_of_the_shorter_side_and_the_centre():
    resized = IMAGE.resize((373, 224), Image.Resampling.BICUBIC)
    left = round((373 - 224) / 2)
    expected = normalized(resized.crop((left, 0, left + 224, 224)))
    torch.testing.assert_close(build_linear_transform(TransferPreprocessing())(IMAGE), expected)


def test_finetune_is_a_bicubic_crop_and_a_flip():
    bicubic = T.InterpolationMode.BICUBIC
    reference = T.Compose(
        [T.RandomResizedCrop(224, interpolation=bicubic), T.RandomHorizontalFlip(), normalized]
    )
    transform = build_finetune_transform(TransferPreprocessing())
    for seed in range(4):
        torch.manual_seed(seed)
        expected = reference(IMAGE)
        torch.manual_seed(seed)
        torch.testing.assert_close(transform(IMAGE), expected)


def test_a_checkpoint_says_size_and_statistics_but_not_the_interpolation():
    said = {"image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}
    actual = preprocessing_of(said)
    assert actual.as_dict() == said | {"interpolation": "bicubic"}
    assert build_linear_transform(actual)(IMAGE).shape == (3, 32, 32)
    assert build_finetune_transform(actual)(IMAGE).shape == (3, 32, 32)
    assert preprocessing_of(None) == preprocessing_of({"mean": None}) == TransferPreprocessing()


@pytest.mark.parametrize(
    "changes",
    [{"image_size": 0}, {"mean": [0.5]}, {"std": [0, 1, 1]}, {"interpolation": "bilinear"}],
)
def test_bad_values(changes):
    with pytest.raises(ConfigError, match=f"{next(iter(changes))}="):
        TransferPreprocessing(**changes)
