"""Real checkpoints that others trained: read with their own preprocessing, or refused by name."""

import os
from pathlib import Path

import pytest

from erssl import load_backbone
from erssl.errors import DataError

SHARED = Path(os.environ.get("ERSSL_SHARED_DATA", Path(__file__).parents[2] / "../shared/data"))
WEIGHTS = SHARED / "weights"
pytestmark = pytest.mark.skipif(not WEIGHTS.is_dir(), reason=f"no checkpoints in {WEIGHTS}")


def test_efficientnet_lite_is_read_with_the_preprocessing_that_it_was_trained_with():
    backbone = load_backbone(WEIGHTS / "efficientnet_lite0_timm_names.pth", "tf_efficientnet_lite0")
    assert backbone.preprocessing == {
        "image_size": 224,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
    }
    said = "assumed: preprocessing image_size 224, mean [0.5, 0.5, 0.5]"
    assert said in str(backbone.report) and "tf_efficientnet_lite0" in str(backbone.report)


def test_a_trunk_without_classifier_is_read():
    backbone = load_backbone(WEIGHTS / "mobilenetv2_trunk_timm_names.pth", "mobilenetv2_100")
    assert backbone.report.missing == backbone.report.unexpected == ()
    assert backbone.preprocessing["interpolation"] == "bicubic"


@pytest.mark.parametrize(
    ("file", "arch", "sentence"),
    [
        ("mobilenetv1_025_imagenet_checkpoint.pth.tar", None, "weights begin with stage1.0.0.we"),
        ("mobilenetv1_025_imagenet_checkpoint.pth.tar", "resnet18", "no backbone of resnet18"),
        ("resnet20-12fca82f.th", None, "is none of those that shapes tell"),
        ("resnet56-4bfd9763.th", "resnet18", "does not fit resnet18"),
    ],
)
def test_networks_that_no_library_has_are_refused(file, arch, sentence):
    with pytest.raises(DataError, match=sentence.replace(".", r"\.")):
        load_backbone(WEIGHTS / file, arch)
