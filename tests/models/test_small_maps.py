"""Convolutions over a few pixels against torch's own."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

import erssl
from erssl.models import BackboneOptions, build_backbone, quicken_small_maps
from erssl.models.half_precision import compare_precisions
from erssl.models.small_maps import as_torch_computes


def pair(*geometry, **options):
    """torch's convolution in float64, and one with the same weights that is quickened."""
    plain = nn.Conv2d(3, 4, *geometry, bias=False, **options).double()
    quick = copy.deepcopy(plain)
    quicken_small_maps(quick)
    assert "_conv_forward" in vars(quick)
    return plain, quick


def passes(conv, images, gradient=None):
    """Output and both gradients, towards random numbers or others."""
    images = images.clone().requires_grad_()
    output = conv(images)
    if gradient is None:
        gradient = torch.randn(output.shape, dtype=output.dtype)
    output.backward(gradient)
    return gradient, (output, images.grad, conv.weight.grad)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [*itertools.product((2, 3, 5, 7), (1, 2, 3), (0, 1, 2, 3))]
)
def test_values_and_gradients_are_those_of_torch(kernel, stride, padding):
    for height, width in itertools.product(range(1, 7), repeat=2):
        if min(height, width) + 2 * padding < kernel:
            continue
        plain, quick = pair(kernel, stride, padding)
        images = torch.randn(2, 3, height, width, dtype=torch.float64)
        gradient, expected = passes(plain, images)
        torch.testing.assert_close(passes(quick, images, gradient)[1], expected)


@pytest.mark.parametrize(("side", "stride"), [(1, 1), (2, 2), (2, 1), (5, 3)])
def test_gradients_have_gradients(side, stride):
    _, quick = pair(3, stride, 1)
    images = torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(quick, (images,))


def test_a_large_map_goes_the_usual_way(monkeypatch):
    plain, quick = pair(3, 1, 1)
    monkeypatch.setattr("erssl.models.small_maps._ByColumns", None)
    images = torch.randn(1, 3, 3, 3, dtype=torch.float64)
    assert torch.equal(quick(images), plain(images))
    with pytest.raises(AttributeError):
        quick(torch.randn(1, 3, 2, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 3, "out_channels": 6},
        {"bias": True},
        {"dilation": 2},
        {"padding_mode": "reflect"},
        {"padding": "same"},
        {"kernel_size": 1},
        {"kernel_size": (3, 1)},
        {"stride": (1, 2)},
    ],
)
def test_other_convolutions_stay_torchs(options):
    options = {"out_channels": 4, "kernel_size": 3, "bias": False, **options}
    conv = nn.Conv2d(3, **options)
    quicken_small_maps(conv)
    assert "_conv_forward" not in vars(conv)


def test_it_can_be_taken_back():
    plain, quick = pair(3, 1, 1)
    as_torch_computes(quick)
    assert vars(quick).keys() == vars(plain).keys()
    quick._conv_forward = own = nn.Conv2d._conv_forward  # somebody else's stays
    as_torch_computes(quick)
    assert quick._conv_forward is own


def test_a_copy_trains_its_own_weights():
    _, quick = pair(3, 1, 1)
    copied = copy.deepcopy(quick)
    with torch.no_grad():
        copied.weight.zero_()
    images = torch.randn(2, 3, 1, 1, dtype=torch.float64)
    assert copied(images).abs().max() == 0 < quick(images).abs().min()
    copied(images).sum().backward()
    assert quick.weight.grad is None and copied.weight.grad is not None


def test_fused_layers_keep_their_bias():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
    nn.init.normal_(net[1].bias)
    net.eval()
    images = torch.randn(2, 3, 2, 2)
    expected = net(images)
    quicken_small_maps(net)
    torch.testing.assert_close(fuse(net)(images), expected, rtol=1e-4, atol=1e-5)


def test_under_autocast_it_rounds_as_torch_does():
    plain, quick = pair(3, 2, 1)
    plain, quick = plain.float(), quick.float()
    images = torch.randn(64, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        gradient, expected = passes(plain, images, torch.ones(64, 4, 2, 2, dtype=torch.bfloat16))
        _, got = passes(quick, images, gradient)
    assert [x.dtype for x in got] == [x.dtype for x in expected]
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)


def test_half_precision_is_right_where_onednn_is_not():
    """A 3 x 3 kernel of stride 2 on one pixel: erssl.models.half_precision says what goes wrong."""
    options = BackboneOptions(
        "resnet10t", "timm", options={"channels": [8, 8, 16, 16], "stem_width": 8}
    )
    net = build_backbone(options)
    quicken_small_maps(net)
    tried = compare_precisions(net, [16], 3, channels_last=True, batch=32)
    assert tried.faulty == []
    assert tried.cosine > 0.9


@pytest.mark.parametrize(("precision", "used"), [("bf16-mixed", True), ("32-true", False)])
def test_pretraining_in_half_precision_uses_them(precision, used, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "erssl.protocols.pretrain_preparation.quicken_small_maps",
        lambda network: seen.append(type(network).__name__),
    )
    options = {"epochs": 1, "evaluation.linear": False, "run_dir": str(tmp_path / "run")}
    trainer = {"limit_train_batches": 1, "accelerator": "cpu", "precision": precision}
    erssl.pretrain("mveb", quiet=True, **options, **{f"trainer.{k}": v for k, v in trainer.items()})
    assert seen == ["MVEB"] * used


def test_a_run_that_ends_up_in_float32_computes_as_torch_does(tmp_path, monkeypatch):
    monkeypatch.setattr("erssl.protocols.precision.quick_half", lambda device: (False, "old"))
    seen = []
    train = "erssl.protocols.pretrain.train_and_measure"
    monkeypatch.setattr(train, lambda run, *rest: seen.append(run.method) or {})
    erssl.pretrain(
        "mveb", quiet=True, run_dir=str(tmp_path / "run"), **{"trainer.precision": "auto"}
    )
    convolutions = [part for part in seen[0].modules() if isinstance(part, nn.Conv2d)]
    assert convolutions and not any("_conv_forward" in vars(part) for part in convolutions)
