"""What weights and networks of other libraries do where one would guess wrongly."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import densenet121, swin_t, vit_b_16

import erssl
from erssl.errors import ErsslError
from erssl.models import BackboneOptions, build_backbone, check_input_size

VIT = {"depth": 1, "embed_dim": 48, "num_heads": 3, "img_size": 32}


def images(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_read_in_float32(tmp_path, dtype):
    """safetensors' reader for NumPy raises KeyError at bfloat16."""
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=0).eval()
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    backbone = erssl.load_backbone(tmp_path / "half.safetensors", arch="resnet10t")
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    assert next(backbone.parameters()).dtype == torch.float32
    with torch.no_grad():
        assert torch.allclose(backbone(images()), net(images()), atol=1e-6)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_a_vit_that_normalises_after_pooling_keeps_doing_so(tmp_path, pool):
    """``reset_classifier(0, "avg")`` moves the normalisation, and the embeddings differ."""
    torch.manual_seed(0)
    said = {**VIT, "global_pool": pool}
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0, **said).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    assert any(name.startswith("fc_norm") for name in net.state_dict()) == (pool == "avg")
    options = BackboneOptions("vit_tiny_patch16_224", "timm", options=said)
    with torch.no_grad():
        backbone = erssl.load_backbone(tmp_path / "vit.pth", arch=options)
        assert torch.allclose(backbone(images()), net(images()), atol=1e-5)
        if pool == "avg":  # the usual one lacks norm.*, which is no small thing
            usual = BackboneOptions("vit_tiny_patch16_224", "timm", options=VIT)
            with pytest.raises(ErsslError, match="norm"):
                erssl.load_backbone(tmp_path / "vit.pth", arch=usual)


def test_the_features_of_networks_that_keep_their_classifier_elsewhere_are_features():
    for name, width, other in (
        ("vit_b_16", 768, vit_b_16),
        ("swin_t", 768, swin_t),
        ("densenet121", 1024, densenet121),
    ):
        backbone = build_backbone(BackboneOptions(name, "torchvision"))
        assert backbone.feature_dim == width
        with torch.device("meta"):
            classifier = [name for name, _ in other().named_modules()][-1]
        assert not isinstance(backbone.get_submodule(classifier), torch.nn.Linear)


def test_images_that_no_number_of_patches_covers_are_refused():
    """transformers' DINOv2 and DINOv3 drop the edge of 230 pixels in silence."""
    for name in ("vit_tiny_patch16_224", "vit_small_patch16_dinov3"):
        options = {"depth": 1, "embed_dim": 48, "num_heads": 3}
        backbone = build_backbone(BackboneOptions(name, "timm", options=options)).eval()
        with pytest.raises(ErsslError, match="230"):
            check_input_size(backbone, [230], 3)


def test_a_dinov3_in_train_mode_draws_nothing():
    """That of transformers scales its positions at random, as a teacher left in train mode."""
    options = {"depth": 1, "embed_dim": 48, "num_heads": 3, "img_size": 32}
    made = BackboneOptions("vit_small_patch16_dinov3", "timm", options=options)
    backbone = build_backbone(made).train()
    assert torch.equal(backbone(images()), backbone(images()))
