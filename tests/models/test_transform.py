"""``backbone.transform()``: what a checkpoint says of its images, as a function."""

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from erssl.data import build_eval_transform
from erssl.errors import ConfigError
from erssl.models import BackboneOptions, build_backbone, load_backbone, save_backbone

OWN = {
    "image_size": 20,
    "mean": [0.3, 0.4, 0.5],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bicubic",
    "crop_pct": 0.8,
}


def image(mode="RGB", size=(40, 30)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def saved(tmp_path):
    options = BackboneOptions("resnet-9", "lightly", options={"width": 0.125, "num_ftrs": 8})
    file = tmp_path / "backbone.safetensors"
    save_backbone(build_backbone(options), file, options, OWN)
    return load_backbone(file)


def test_it_follows_the_checkpoint(saved):
    expected = build_eval_transform(**OWN)(image())
    assert torch.equal(saved.transform()(image()), expected)
    theirs = v2.Compose(
        [
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(OWN["mean"], OWN["std"]),
        ]
    )
    resized = image().resize((33, 25), Image.Resampling.BICUBIC).crop((6, 2, 26, 22))
    torch.testing.assert_close(expected, theirs(resized))  # 20 / 0.8 = 25, its centre
    assert torch.equal(
        saved.transform(image_size=32, crop_pct=None)(image()),
        build_eval_transform(**OWN | {"image_size": 32, "crop_pct": None})(image()),
    )
    assert saved.eval()(expected[None]).shape == (1, saved.feature_dim)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_any_mode_are_read_as_rgb(saved, mode):
    given = image(mode)
    assert torch.equal(saved.transform()(given), saved.transform()(given.convert("RGB")))


def test_it_travels_with_the_backbone(saved):
    expected = saved.transform()(image())
    for other in (copy.deepcopy(saved), pickle.loads(pickle.dumps(saved))):
        assert torch.equal(other.transform()(image()), expected)
    assert torch.equal(pickle.loads(pickle.dumps(saved.transform()))(image()), expected)


def test_what_weights_do_not_say_has_to_be_given(tmp_path):
    torch.save(
        build_backbone(BackboneOptions("resnet18", cifar_stem=True)).state_dict(),
        tmp_path / "small.pth",
    )
    backbone = load_backbone(tmp_path / "small.pth")
    with pytest.raises(ConfigError, match=r"do not say image_size or mean or std"):
        backbone.transform()
    said = {"image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    given = backbone.transform(**said)(image())
    assert torch.equal(given, build_eval_transform(**said)(image()))
    with pytest.raises(ConfigError, match="was given size"):
        backbone.transform(size=3)
