"""MVEB's objective with an entropy that has a gradient of its own: kernel density, neighbours."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.special import betainc, digamma, gammaln, ive

from erssl.loss import MVEBLoss

Floats = npt.NDArray[np.float64]
DIM = 5
LOSSES = {
    "kde": lambda **more: MVEBLoss(beta=1.0, entropy="kde", bandwidth=0.25, **more),
    "knn": lambda **more: MVEBLoss(beta=1.0, entropy="knn", **more),
}


def unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def drawn(count: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, DIM))


def kde(z: Floats, kappa: float = 4.0) -> float:
    """By the formula, with loops, each row left out of its own density."""
    d = z.shape[1]
    order = d / 2 - 1
    log_c = order * math.log(kappa) - d / 2 * math.log(2 * math.pi)
    log_c -= math.log(ive(order, kappa)) + kappa
    total = 0.0
    for i in range(len(z)):
        others = [math.exp(kappa * (z[i] @ z[j])) for j in range(len(z)) if j != i]
        total -= log_c + math.log(sum(others) / len(others))
    return total / len(z)


def knn(z: Floats, k: int = 3) -> float:
    """By sorted angles and scipy's incomplete beta function (Li 2011)."""
    n, d = z.shape
    k = min(k, n - 1)
    log_area = math.log(2) + d / 2 * math.log(math.pi) - gammaln(d / 2)
    total = 0.0
    for i in range(n):
        cosine = sorted((z[i] @ z[j] for j in range(n) if j != i), reverse=True)[k - 1]
        half = 0.5 * betainc((d - 1) / 2, 0.5, 1 - cosine**2)
        total += math.log(half if cosine >= 0 else 1 - half) + log_area
    return float(digamma(n) - digamma(k) + total / n)


ESTIMATES = {"kde": kde, "knn": knn}


def by_differences(function, z: Floats, step: float = 1e-6) -> Floats:
    gradient = np.zeros_like(z)
    for place in np.ndindex(*z.shape):
        moved = [z.copy(), z.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        gradient[place] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return gradient


@pytest.mark.parametrize("score_rows", [None, 6])
@pytest.mark.parametrize("kind", ESTIMATES)
def test_value_and_gradient_are_those_of_the_formula(kind: str, score_rows: int | None) -> None:
    """Alignment of pairs and the mean entropy of both views, in groups of rows."""
    first, second = drawn(11), drawn(11, seed=1)
    groups = [slice(0, 11)] if score_rows is None else [slice(0, 6), slice(6, 11)]

    def objective(a: Floats, b: Floats) -> float:
        one, other = unit(a), unit(b)
        entropies = [
            sum(len(z[g]) / len(z) * ESTIMATES[kind](z[g]) for g in groups) for z in (one, other)
        ]
        return float(-(one * other).sum(axis=1).mean() - np.mean(entropies))

    views = [torch.tensor(z, requires_grad=True) for z in (first, second)]
    loss_fn = LOSSES[kind](score_rows=score_rows)
    loss = loss_fn(*views)
    loss.backward()
    assert loss.item() == pytest.approx(objective(first, second), rel=1e-9)
    assert sorted(loss_fn.terms) == ["alignment", "entropy"]
    for view, expected in (
        (views[0], by_differences(lambda z: objective(z, second), first)),
        (views[1], by_differences(lambda z: objective(first, z), second)),
    ):
        np.testing.assert_allclose(view.grad, expected, rtol=1e-5, atol=1e-7)


def von_mises_fisher(count: int, kappa: float) -> Floats:
    """Exact samples about the third axis of the sphere in three dimensions."""
    random = np.random.default_rng(0)
    w = 1 + np.log(random.random(count) * (1 - math.exp(-2 * kappa)) + math.exp(-2 * kappa)) / kappa
    angle = 2 * math.pi * random.random(count)
    across = np.sqrt(1 - w**2)
    return np.stack([across * np.cos(angle), across * np.sin(angle), w], axis=1)


@pytest.mark.parametrize(
    ("options", "within"),
    [
        ({"entropy": "kde", "bandwidth": 0.02}, 0.06),
        ({"entropy": "knn"}, 0.06),
        ({"geometry": "sphere", "eta": "auto"}, 0.06),
    ],
)
def test_rows_of_a_known_density_lose_the_entropy_that_it_loses(
    options: dict[str, object], within: float
) -> None:
    """Rows that flow towards the mean direction μ of a von Mises-Fisher density.

    Along the field v = μ - (μ·z) z the entropy changes at the rate E[div v] = -(d - 1) E[μ·z],
    which is -2 (coth κ - 1/κ) on the sphere in three dimensions.
    """
    kappa, mean = 5.0, np.array([0.0, 0.0, 1.0])
    z = von_mises_fisher(3000, kappa)
    rows = torch.tensor(z, requires_grad=True)
    loss_fn = MVEBLoss(beta=1.0, **options)  # type: ignore[arg-type]
    held = rows.detach()
    gradient = -torch.autograd.grad(loss_fn(rows, held), rows)[0].numpy()
    flow = mean - (z @ mean)[:, None] * z  # at right angles to z, which alignment pulls along
    rate = 2 * (gradient * flow).sum()  # the entropy is the mean over two views, and one flows
    assert rate == pytest.approx(-2 * (1 / math.tanh(kappa) - 1 / kappa), rel=within)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"entropy": "joe"}, "None, 'kde' or 'knn'"),
        ({"entropy": "kde"}, "needs a number for bandwidth"),
        ({"entropy": "knn", "bandwidth": 0.1}, "has no kernel"),
        ({"entropy": "knn", "eta": "auto"}, "has no score"),
        ({"entropy": "kde", "bandwidth": 0.1, "geometry": "sphere"}, "has no score"),
        ({"entropy": "kde", "bandwidth": 0.0}, "above 0"),
    ],
)
def test_options_that_an_estimate_has_not_are_refused(
    options: dict[str, object], said: str
) -> None:
    """When the loss is made."""
    with pytest.raises(ValueError, match=said):
        MVEBLoss(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", LOSSES)
def test_one_row_is_refused(kind: str) -> None:
    """There is no other to compare it with."""
    row = torch.ones(1, DIM)
    with pytest.raises(ValueError, match="one alone"):
        LOSSES[kind]()(row, row)
