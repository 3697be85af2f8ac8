"""Our LARS against lightly's, on parameters and gradients of every kind that it tells apart."""

import pytest
import torch
from lightly.utils.lars import LARS as LightlyLARS
from torch import nn

from erssl.methods import lars
from erssl.methods.lars import LARS

SHAPES = [(7, 5), (3, 2, 3, 3), (11,), (1,), (40, 30), (6, 4), (5, 5)]


def twins(dtype):
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]
    values[5].zero_()  # whose norm is 0
    return [[nn.Parameter(v.clone()) for v in values] for _ in range(2)]


def give_gradients(own, other, step):
    generator = torch.Generator().manual_seed(step)
    for index, (p, q) in enumerate(zip(own, other, strict=True)):
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype) * 10.0 ** (index - 3)
        if index == 6 and step % 2:
            p.grad.zero_()
        if index == 3 and step < 2:
            p.grad = None  # takes part later
        q.grad = None if p.grad is None else p.grad.clone()


@pytest.mark.parametrize("chunk", [1, 50, 2**20])
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9, "weight_decay": 1e-4},
        {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "trust_coefficient": 0.02},
        {"momentum": 0.8, "weight_decay": 0.01, "dampening": 0.3},
        {"momentum": 0.0, "weight_decay": 0.01},
    ],
)
def test_steps_are_lightlys(options, chunk, monkeypatch):
    monkeypatch.setattr(lars, "_CHUNK", chunk)
    own, other = twins(torch.float64)
    groups = [
        [{"params": p[:5:2]}, {"params": p[1:5:2], "weight_decay": 0.0}, {"params": p[5:]}]
        for p in (own, other)
    ]
    ours, theirs = LARS(groups[0], lr=0.3, **options), LightlyLARS(groups[1], lr=0.3, **options)
    start = [p.detach().clone() for p in own]
    for step in range(5):
        give_gradients(own, other, step)
        assert ours.step(lambda: 2.5) == 2.5
        theirs.step()
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] *= 0.9
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)
    assert all(not torch.equal(p, q) for p, q in zip(own, start, strict=True))
    kept, expected = ours.state_dict(), theirs.state_dict()
    assert kept["param_groups"] == expected["param_groups"]
    torch.testing.assert_close(kept["state"], expected["state"], rtol=1e-9, atol=1e-12)
    theirs.load_state_dict(kept)  # either goes on from the other's checkpoint
    ours.load_state_dict(expected)


def test_a_gradient_that_is_not_finite_reaches_the_weights_as_with_lightlys():
    own, other = twins(torch.float32)
    give_gradients(own, other, step=2)
    own[0].grad[0, 0] = other[0].grad[0, 0] = float("nan")
    for kind, parameters in ((LARS, own), (LightlyLARS, other)):
        kind(parameters, lr=0.1, momentum=0.9, weight_decay=1e-6).step()
    torch.testing.assert_close(own, other, equal_nan=True)
