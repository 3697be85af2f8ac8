"""The concentration of ER's kernel by likelihood: best of a batch, or learned over steps."""

import math

import pytest
import scipy.optimize
import torch
import torch.nn.functional as F

from erssl.loss import ERLoss, accumulate_state
from erssl.loss.concentration import MOST, Concentration, likelihood_slope

from .loss_reference import log_normalizer


def rows(count=60, dim=5, seed=0, around=0.7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, dtype=torch.float64, generator=generator) + around


def log_likelihood(z, kappa):
    """Mean leave-one-out log density of unit rows, a double loop."""
    cosines = (z @ z.T).tolist()
    n = len(cosines)
    sums = [
        math.log(math.fsum(math.exp(kappa * c) for j, c in enumerate(row) if j != i) / (n - 1))
        for i, row in enumerate(cosines)
    ]
    return math.fsum(sums) / n + log_normalizer(z.shape[1], kappa)


def best_of(z):
    """By scipy's search over the logarithm."""
    fit = scipy.optimize.minimize_scalar(
        lambda x: -log_likelihood(z, math.exp(x)), bounds=(-3, 6), method="bounded"
    )
    return math.exp(fit.x)


def test_the_best_is_that_of_the_highest_likelihood_of_each_view():
    z = [rows(seed=seed, around=around).requires_grad_() for seed, around in ((0, 0.2), (1, 2.0))]
    loss_fn = ERLoss("best")
    gradient = torch.autograd.grad(loss_fn(*z), z)
    best = [best_of(F.normalize(x.detach(), dim=1)) for x in z]
    assert best[1] > 2 * best[0]
    mean = sum(best) / 2
    assert loss_fn.terms["kappa"].item() == pytest.approx(mean, rel=0.05)  # a grid of 2^(1/16)
    # each view's entropy with its own kernel, the reconstruction at the paper's 10
    held = [Concentration("best").of(F.normalize(x.detach(), dim=1)) for x in z]
    parts = [ERLoss(k, reconstruction_weight=0.0) for k in held]
    entropy = [torch.autograd.grad(part(*z), z)[v] for v, part in enumerate(parts)]
    aligned = torch.autograd.grad(ERLoss(10.0, entropy_weight=0.0)(*z), z)
    for own, first, second in zip(gradient, entropy, aligned, strict=True):
        torch.testing.assert_close(own, first + second, rtol=1e-9, atol=1e-12)
    terms = ERLoss("best"), ERLoss(10.0)
    for loss in terms:
        loss(*z)
    torch.testing.assert_close(terms[0].terms["reconstruction"], terms[1].terms["reconstruction"])
    expected = [
        -log_likelihood(F.normalize(x.detach(), dim=1), k) for x, k in zip(z, held, strict=True)
    ]
    assert terms[0].terms["entropy"].item() == pytest.approx(sum(expected) / 2, rel=1e-9)


@pytest.mark.parametrize("kappa", [0.5, 10.0, 80.0])
def test_the_slope_is_that_of_the_likelihood(kappa):
    z = F.normalize(rows(), dim=1)
    step = 1e-4
    up, down = (log_likelihood(z, kappa * math.exp(s)) for s in (step, -step))
    expected = 2 / 5 * (up - down) / (2 * step)
    assert likelihood_slope(z, z, 0, kappa).item() == pytest.approx(expected, rel=1e-5)
    # rows of a second rank among the keys of both
    both = torch.cat([F.normalize(rows(seed=3), dim=1), z])
    parts = [
        likelihood_slope(part, both, at, kappa).item() for part, at in ((both[:60], 0), (z, 60))
    ]
    assert sum(parts) / 2 == pytest.approx(likelihood_slope(both, both, 0, kappa).item(), rel=1e-9)


def test_the_learned_one_comes_to_the_best_and_is_kept():
    z = rows(30).requires_grad_()
    loss_fn = ERLoss("learned")
    for _ in range(80):
        loss_fn(z, z)
    best = best_of(F.normalize(z.detach(), dim=1))
    assert loss_fn.terms["kappa"].item() == pytest.approx(best, rel=0.02)
    again = ERLoss("learned")
    again.load_state_dict(loss_fn.state_dict())
    assert again(z, z).item() == loss_fn(z, z).item()
    assert ERLoss("best").state_dict().keys() == ERLoss().state_dict().keys()


def test_it_moves_in_training_alone_and_once_a_step():
    z = rows().requires_grad_()
    loss_fn, whole = ERLoss("learned"), ERLoss("learned")
    before = loss_fn.concentration.log_kappa.item()
    loss_fn(z.detach(), z.detach())
    assert loss_fn.concentration.log_kappa.item() == before
    with accumulate_state(loss_fn):
        loss_fn(z, z)
        loss_fn(z, z)
        assert loss_fn.concentration.log_kappa.item() == before
    with accumulate_state(whole):
        whole(z, z)
    assert loss_fn.concentration.log_kappa.item() == whole.concentration.log_kappa.item() != before


@pytest.mark.parametrize("rule", ["best", "learned"])
def test_rows_in_one_point_leave_it_finite(rule):
    z = torch.ones(8, 4).requires_grad_()
    loss_fn = ERLoss(rule)
    for _ in range(3):
        loss = loss_fn(z, z)
        (gradient,) = torch.autograd.grad(loss, z)
        assert loss.isfinite()
        assert gradient.isfinite().all()
    assert loss_fn.terms["kappa"] <= MOST


@pytest.mark.parametrize("kappa", [10.0, "best", "learned"])
def test_rows_of_a_view_are_gathered_once(monkeypatch, kappa):
    gathered = []

    def gather(x, gather_distributed):
        gathered.append(x.shape)
        return x

    monkeypatch.setattr("erssl.loss.er.gather_rows", gather)
    z = [rows(seed=seed).requires_grad_() for seed in (0, 1)]
    ERLoss(kappa)(*z)
    assert [len(shape) for shape in gathered].count(2) == 2  # the rest are densities (N,)
