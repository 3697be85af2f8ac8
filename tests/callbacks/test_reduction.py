"""Mean gradients of three processes are the same bits in whatever order DDP has put them."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from erssl.callbacks import RankOrderedGradients

SIZES = (300, 7, 1000, 33, 512)


class Products(nn.Module):
    """Parameters whose gradients are what they are multiplied with."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList(torch.zeros(size) for size in SIZES)

    def forward(self, rows):
        return sum((w * r).sum() for w, r in zip(self.weights, rows, strict=True))


def rows_of(rank):
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(size, generator=generator) for size in SIZES]


def two_steps(rank, world, ordered):
    """Gradients of two equal steps; DDP arranges its buckets anew between them."""
    model = DistributedDataParallel(Products())
    if ordered:
        trainer = SimpleNamespace(strategy=SimpleNamespace(model=model), world_size=world)
        own = SimpleNamespace(device=torch.device("cpu"))
        RankOrderedGradients().on_train_start(trainer, own)
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(rows_of(rank)).backward()
        gradients.append(torch.cat([p.grad.clone() for p in model.parameters()]))
    return gradients


@pytest.mark.parametrize("ordered", [True, False])
def test_three_ranks_round_alike_in_every_step(gloo, ordered):
    steps = gloo.run(3, two_steps, ordered)
    whole = torch.stack([torch.cat(rows_of(rank)).double() for rank in range(3)]).mean(dim=0)
    for first, second in steps:
        assert torch.equal(first, second) is ordered  # what the callback is for
        torch.testing.assert_close(first.double(), whole, rtol=0, atol=3e-7)
        assert torch.equal(first, steps[0][0])
