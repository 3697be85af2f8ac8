"""The quick copy of a frozen backbone gives the backbone's features."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import erssl.evaluation.features as features_module
from erssl.data.datasets import ImagesInMemory
from erssl.evaluation import cached_features
from erssl.evaluation.features import eval_mode
from erssl.evaluation.frozen import freeze
from erssl.models import BackboneOptions, build_backbone


def awake(net, seed=0):
    """The network with statistics as of a training, which folding has to carry over."""
    generator = torch.Generator().manual_seed(seed)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
                nn.init.uniform_(part.bias, -0.3, 0.3, generator=generator)
    return net.eval()


def built(name, library="torchvision"):
    torch.manual_seed(0)
    return awake(build_backbone(BackboneOptions(name, library)))


def images(n=5, size=64):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "library", "folded", "kept"),
    [
        ("resnet18", "torchvision", 20, 0),
        ("resnet50", "torchvision", 53, 0),
        ("test_efficientnet", "timm", None, 0),  # activations inside the normalisations
        ("test_resnet", "timm", None, 0),
        ("test_vit", "timm", 0, 0),
    ],
)
@torch.no_grad()
def test_features_are_equal_and_the_backbone_is_left_as_it_was(name, library, folded, kept):
    net = built(name, library)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    x = images(3, 160 if name == "test_vit" else 64)
    expected = net(x)
    quick = freeze(net)
    assert (quick.folded, quick.kept) == (norms if folded is None else folded, kept)
    actual = quick.forward(x)
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=0)


@torch.no_grad()
def test_normalisations_before_the_convolution_stay():
    net = awake(torchvision.models.densenet121(weights=None))
    expected = net(images(2))
    quick = freeze(net)
    assert (quick.folded, quick.kept) == (59, 62)  # of 121
    assert (quick.forward(images(2)) - expected).abs().max() <= 1e-5 * expected.abs().max()


class Odd(nn.Module):
    """A convolution that two normalisations read, one that is used twice, and one of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.twice, self.last = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.a, self.b, self.c, self.d = (nn.BatchNorm2d(3) for _ in range(4))
        self.no_statistics = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x):
        y = self.conv(x)
        z = self.c(self.twice(self.a(y) + self.b(y)))
        z = self.no_statistics(self.twice(z))
        return self.d(self.last(z)).mean(dim=(2, 3))


@torch.no_grad()
def test_only_what_alone_follows_a_convolution_is_folded():
    net = Odd()
    for part in (net.a, net.b, net.c, net.d):
        awake(part)
    net.eval()
    x = images(4, 16)
    quick = freeze(net)
    assert (quick.folded, quick.kept) == (1, 4)
    torch.testing.assert_close(quick.forward(x), net(x), rtol=1e-5, atol=1e-5)


class Branching(nn.Module):
    """Control flow by values, which cannot be traced."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x if x.mean() > 0 else -x)).mean(dim=(2, 3))


@torch.no_grad()
def test_what_cannot_be_traced_computes_as_it_comes():
    net = awake(Branching())
    quick = freeze(net)
    assert (quick.folded, quick.kept) == (0, 1)
    assert torch.equal(quick.forward(images(3)), net(images(3)))


class Viewing(Branching):
    """Which asks for its maps to lie channels-first."""

    def forward(self, x):
        return self.norm(self.conv(x)).relu().view(len(x), -1)


@torch.no_grad()
def test_what_cannot_compute_channels_last_computes_as_it_comes():
    net = awake(Viewing())
    quick = freeze(net)
    assert torch.equal(quick.forward(images(3)), net(images(3)))


@torch.no_grad()
def test_bfloat16_is_near_and_leaves_the_weights_alone():
    net = built("resnet18")
    expected = net(images(6))
    actual = freeze(net, "bf16").forward(images(6))
    assert actual.dtype == torch.float32
    assert nn.functional.cosine_similarity(actual, expected).min() > 0.999
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_parts_of_a_batch_change_nothing(monkeypatch):
    net = built("resnet18")
    with torch.no_grad():
        whole = freeze(net).forward(images(7))
        monkeypatch.setattr("erssl.evaluation.frozen._PART", 3)
        parts = freeze(net).forward(images(7))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


def test_the_cache_keeps_precisions_apart(tmp_path, monkeypatch):
    pixels = (images(9, 32) * 40 + 128).clamp(0, 255).byte().permute(0, 2, 3, 1)
    data = ImagesInMemory(pixels.contiguous().numpy(), np.arange(9) % 3)
    net = built("resnet18").train()  # left in the mode that it came in
    taken = []

    def counted(*args):
        taken.append(args[1])
        return freeze(*args)

    monkeypatch.setattr(features_module, "freeze", counted)
    options = {"cache_dir": tmp_path, "preprocessing": {}}
    transform = torchvision.transforms.ToTensor()
    actual = {
        precision: cached_features(net, data, transform, precision=precision, **options)
        for precision in ("float32", "bf16", "float32", "bf16")
    }
    assert taken == ["float32", "bf16"]
    assert len(list(tmp_path.iterdir())) == 2
    assert not torch.equal(actual["float32"].features, actual["bf16"].features)
    assert net.training
    with eval_mode(net), torch.no_grad():
        expected = net(torch.stack([transform(image) for image, _ in data]))
    largest = float(expected.abs().max())
    torch.testing.assert_close(actual["float32"].features, expected, rtol=1e-5, atol=1e-5 * largest)
