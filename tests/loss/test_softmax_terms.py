"""The soft-max in tiles, against torch's own and its autograd."""

import pytest
import torch

from erssl.loss._softmax import softmax_terms


@pytest.mark.parametrize("temperature", [0.05, 1.0, 3.0])
@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("cached", [1, 12, 2**18])
def test_tiles_give_the_values_and_gradients_of_the_whole(
    monkeypatch, cached, with_target, temperature
):
    monkeypatch.setattr("erssl.loss._softmax._CACHED", cached)  # 1, 2 and all rows at a time
    draw = torch.Generator().manual_seed(0)
    logits, other = (
        (3 * torch.randn(7, 6, generator=draw, dtype=torch.float64)).requires_grad_()
        for _ in range(2)
    )
    of_mean, of_cross = (torch.randn(size, generator=draw, dtype=torch.float64) for size in (6, 7))
    target = other.softmax(dim=1)
    mean, cross = softmax_terms(logits, target if with_target else None, temperature)
    log_probs = (logits / temperature).log_softmax(dim=1)
    cross_terms = (target * log_probs).sum(dim=1) if with_target else torch.zeros_like(cross)
    expected = log_probs.exp().mean(dim=0), cross_terms
    torch.testing.assert_close((mean, cross), expected)
    leaves = (logits, other) if with_target else (logits,)
    ours = torch.autograd.grad(mean @ of_mean + cross @ of_cross, leaves, retain_graph=True)
    theirs = torch.autograd.grad(expected[0] @ of_mean + expected[1] @ of_cross, leaves)
    torch.testing.assert_close(ours, theirs)


def test_logits_of_a_size_that_exponentials_cannot_hold_have_finite_terms():
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    mean, cross = softmax_terms(logits, torch.full((2, 3), 1 / 3), 0.1)
    (mean.sum() + cross.sum()).backward()
    assert mean.isfinite().all() and cross.isfinite().all() and logits.grad.isfinite().all()
