"""Bfloat16 beside float32, on networks whose gradients are known to be right or wrong."""

import pytest
import torch
from torch import nn

from erssl.models import half_precision
from erssl.models.half_precision import compare_precisions, faulty_convolutions, faulty_in_half


class _Tiny(nn.Module):
    """A convolution over few pixels, and a batch norm whose state a pass moves."""

    def __init__(self, channels=8, **options):
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, 64, **options)

    def forward(self, images):
        return self.second(self.norm(self.first(images)).relu()).mean((2, 3))


@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(3, 1, 1, 1), (3, 2, 1, 1), (3, 3, 1, 1), (5, 2, 2, 1), (3, 1, 2, 2), (2, 2, 1, 1)],
)
def test_idle_taps_are_those_without_a_gradient(side, kernel, stride, padding, dilation):
    convolution = nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False)
    images = torch.rand(2, 1, side, side) + 1
    convolution(images).sum().backward()
    idle = bool((convolution.weight.grad == 0).any())
    assert half_precision._idle_taps(convolution, (side, side)) == idle


def test_named_padding_has_idle_taps_too():
    same = nn.Conv2d(1, 1, 3, padding="same")
    assert half_precision._idle_taps(same, (1, 4))
    assert not half_precision._idle_taps(same, (2, 2))
    assert not half_precision._idle_taps(nn.Conv2d(1, 1, 3, padding="valid"), (3, 3))


def test_networks_that_agree_are_left_as_they_are():
    network = _Tiny(kernel_size=3).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    agreement = compare_precisions(network, [8, 12, 8], 3, True, 16)
    assert agreement.cosine > 0.99
    assert agreement.faulty == []
    assert 0 < agreement.time_ratio < float("inf")
    assert not network.training
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[n]) for n, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_gradient_that_is_not_finite_has_no_cosine():
    class Half(_Tiny):
        def forward(self, images):
            features = super().forward(images)
            return features * (float("nan") if features.dtype == torch.bfloat16 else 1.0)

    agreement = compare_precisions(Half(kernel_size=3), [8], 3, False, 8)
    assert not agreement.cosine >= -1


@pytest.mark.parametrize("wrong", [float("nan"), 1e4])
def test_wrong_gradients_of_a_convolution_name_it(monkeypatch, wrong):
    """As oneDNN leaves them, whatever this processor does: a part is what lay in memory."""
    right = half_precision._weight_gradient

    def unwritten(seen, dtype):
        gradient = right(seen, torch.float32)
        if dtype == torch.bfloat16 and seen.module.stride[0] > 1:
            gradient[..., 0, 0] = wrong
        return gradient

    monkeypatch.setattr(half_precision, "_weight_gradient", unwritten)
    strided = _Tiny(kernel_size=3, stride=2, padding=1)
    assert faulty_in_half(strided, [1], 3) == ["second"]
    assert faulty_in_half(strided, [4], 3) == []  # all of the kernel meets the image
    assert faulty_in_half(_Tiny(kernel_size=3, padding=1), [1], 3) == []
    assert faulty_convolutions(strided, [torch.randn(2, 3, 4, 4), torch.randn(2, 3, 1, 1)])


def test_rounding_to_half_is_not_blamed(monkeypatch):
    """Whether the fault itself shows depends on the processor and on what lay in memory."""
    right, tried = half_precision._weight_gradient, set()

    def rounded(seen, dtype):
        tried.add(seen.name)
        return right(seen, torch.float32).to(dtype).float()

    monkeypatch.setattr(half_precision, "_weight_gradient", rounded)
    assert faulty_in_half(_Tiny(64, kernel_size=3, stride=2, padding=1), [1], 3) == []
    assert tried == {"first", "second"}


def test_an_image_may_be_given_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 2, 1)

        def forward(self, images):
            return self.conv(input=images)

    named = Named()
    images = [torch.randn(2, 3, 1, 1)]
    assert bool(faulty_convolutions(named, images)) == bool(faulty_convolutions(named.conv, images))
