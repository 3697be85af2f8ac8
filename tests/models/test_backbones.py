import json

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from erssl import load_backbone
from erssl.errors import ConfigError, DataError
from erssl.models import BackboneOptions, build_backbone, check_input_size, save_backbone
from erssl.models.architectures import architecture_label

FEATURE_DIMS = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048}


@pytest.mark.parametrize("name", FEATURE_DIMS)
def test_resnets_have_torchvisions_names_and_features(name):
    backbone = build_backbone(name).eval()
    reference = getattr(torchvision.models, name)().eval()
    expected = {k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    assert {k: v.shape for k, v in backbone.state_dict().items()} == {
        k: v.shape for k, v in expected.items()
    }
    reference.load_state_dict(backbone.state_dict(), strict=False)
    reference.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference(images))
    assert backbone.feature_dim == FEATURE_DIMS[name]


def test_cifar_stem_keeps_resolution():
    backbone = build_backbone(BackboneOptions("resnet18", cifar_stem=True))
    sizes = []
    backbone.layer1.register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    assert backbone(torch.randn(2, 3, 32, 32)).shape == (2, 512)
    assert sizes == [32]


def test_timm_model_gives_what_timm_gives():
    options = BackboneOptions("resnet10t", "timm", options={"channels": [32, 64, 128, 256]})
    backbone = build_backbone(options).eval()
    reference = timm.create_model("resnet10t", num_classes=0, channels=(32, 64, 128, 256)).eval()
    reference.load_state_dict(backbone.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference(images))
    assert backbone.feature_dim == 256


def test_a_timm_resnet_without_its_stems_pool_is_timms_but_for_that():
    options = BackboneOptions("resnet10t", "timm", options={"stem_pool": False})
    backbone = build_backbone(options).eval()
    reference = timm.create_model("resnet10t", num_classes=0).eval()
    reference.load_state_dict(backbone.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        stem = reference.act1(reference.bn1(reference.conv1(images)))  # half the side of the images
        maps = reference.layer4(reference.layer3(reference.layer2(reference.layer1(stem))))
        torch.testing.assert_close(backbone(images), maps.mean((2, 3)))
        kept = build_backbone(BackboneOptions("resnet10t", "timm", options={"stem_pool": True}))
        kept.load_state_dict(backbone.state_dict())
        torch.testing.assert_close(kept.eval()(images), reference(images))
    assert stem.shape[-1] == 16


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (BackboneOptions("resnet19"), "resnet19 is unknown; choose one of resnet18"),
        (BackboneOptions("resnet10", "timm"), "no timm model; the nearest names are resnet10t"),
        (BackboneOptions("resnet10t", "timm", cifar_stem=True), "cifar_stem is for torchvision"),
        (BackboneOptions("resnet18", options={"a": 1}), "for backbone=timm only"),
        (BackboneOptions("vit_tiny_patch16_224", "timm", options={"nope": 1}), "is not handed"),
        (BackboneOptions("vit_tiny_patch16_224", "timm", options={"channels": 1}), "does not fit"),
        (BackboneOptions("resnet10t", "timm", options={"stem_pool": "no"}), "neither true nor"),
        (
            BackboneOptions("vit_tiny_patch16_224", "timm", options={"stem_pool": False}),
            "stem, which vit_tiny_patch16_224 has not",
        ),
    ],
)
def test_wrong_backbones_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build_backbone(options)


def test_a_transformer_of_another_size_is_refused_before_work():
    backbone = build_backbone(BackboneOptions("vit_tiny_patch16_224", "timm"))
    with pytest.raises(ConfigError, match=r"32 x 32 pixels .*backbone.options.img_size=32"):
        check_input_size(backbone, [32])


def test_checking_the_size_leaves_the_state_alone():
    backbone = build_backbone("resnet18")
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    check_input_size(backbone, [32, 64])
    assert backbone.training
    torch.testing.assert_close(backbone.state_dict(), before)


def test_saved_backbone_comes_back_equal_and_fits_torchvision(tmp_path):
    options = BackboneOptions("resnet18", cifar_stem=True)
    backbone = build_backbone(options).eval()
    file = tmp_path / "backbone.safetensors"
    save_backbone(backbone, file, options, {"image_size": 32, "mean": [0.5] * 3, "std": [0.2] * 3})
    loaded = load_backbone(tmp_path)
    torch.testing.assert_close(loaded.state_dict(), backbone.state_dict(), rtol=0, atol=0)
    assert loaded.preprocessing == {"image_size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}
    assert loaded.feature_dim == 512
    names = set(torchvision.models.resnet18().state_dict()) - {"fc.weight", "fc.bias"}
    assert set(load_file(file)) == names


def test_compiled_backbone_is_saved_under_plain_names(tmp_path):
    options = BackboneOptions("resnet18")
    backbone = build_backbone(options)
    names = set(backbone.state_dict())
    backbone.compile()
    save_backbone(backbone, tmp_path / "backbone.safetensors", options)
    assert set(load_file(tmp_path / "backbone.safetensors")) == names


def test_weights_of_another_backbone_are_refused_with_counts(tmp_path):
    file = tmp_path / "backbone.safetensors"
    save_backbone(build_backbone("resnet18"), file, BackboneOptions("resnet34"))
    with pytest.raises(DataError, match=r"120 backbone weights matched, 80 missing, 0 unexpected"):
        load_backbone(file)


def test_what_is_no_backbone_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no backbone\.safetensors and no config"):
        load_backbone(tmp_path)
    truncated = tmp_path / "backbone.safetensors"
    save_backbone(build_backbone("resnet18"), truncated, BackboneOptions("resnet18"))
    truncated.write_bytes(truncated.read_bytes()[:1000])
    with pytest.raises(DataError, match="not a readable safetensors file"):
        load_backbone(tmp_path)
    save_file({"a": torch.zeros(1)}, truncated, metadata={"x": json.dumps({})})
    with pytest.raises(DataError, match="holds no backbone in any known layout"):
        load_backbone(truncated)


@pytest.mark.parametrize(
    ("options", "label"),
    [
        (BackboneOptions("resnet18", cifar_stem=True), "resnet18_cifar"),
        (BackboneOptions("vit_base_patch16_224", "timm"), "vit_base_patch16_224"),
        (
            BackboneOptions(
                "vit_base_patch16_224", "timm", options={"embed_dim": 512, "depth": 12}
            ),
            "vit_base_patch16_224_w512_d12",  # published numbers of vit_base are not its own
        ),
    ],
)
def test_a_label_says_what_was_changed_of_a_name(options, label):
    assert architecture_label(options) == label


def test_only_torchvisions_resnets_are_resnets():
    assert BackboneOptions("resnet50", cifar_stem=True).is_resnet
    assert not BackboneOptions("convnext_tiny").is_resnet
    assert not BackboneOptions("resnet50", "timm").is_resnet
