"""Alignment and uniformity (Wang and Isola 2020) as a setting of ER's loss: where they are one."""

import math

import pytest
import torch
import torch.nn.functional as F

from erssl.entropy import kde_entropy, uniformity
from erssl.loss import ERLoss


def rows(count, dim, seed):
    return torch.randn(
        count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def align_uniform(z0, z1, t, weight):
    """The paper's figure 5, alpha = 2: mean squared distance, and log-mean-exp over pairs."""
    x, y = F.normalize(z0, dim=1), F.normalize(z1, dim=1)
    alignment = (x - y).norm(dim=1).pow(2).mean()
    uniform = [torch.pdist(v).pow(2).mul(-t).exp().mean().log() for v in (x, y)]
    return alignment + weight * sum(uniform) / 2


@pytest.mark.parametrize(("t", "weight"), [(2.0, 1.0), (0.5, 3.0), (5.0, 0.25)])
@pytest.mark.parametrize("shape", [(7, 4), (40, 16)])
def test_their_gradient_is_that_of_er_with_renyis_entropy(shape, t, weight):
    z = [rows(*shape, seed).requires_grad_() for seed in (0, 1)]
    kappa = 2 * t
    er = ERLoss(kappa, "renyi2", entropy_weight=weight * kappa / 2)
    ours = torch.autograd.grad(er(*z), z)
    theirs = torch.autograd.grad(kappa / 2 * align_uniform(*z, t, weight), z)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)


def test_renyis_entropy_is_minus_uniformity_but_for_a_constant():
    # the kernel exp(kappa cos) is e^kappa exp(-t |x - y|^2) with kappa = 2t
    apart = []
    for seed in range(3):
        z = F.normalize(rows(20, 6, seed), dim=1)
        apart.append(kde_entropy(z, 4.0, "renyi2") + uniformity(z, t=2.0))
    assert apart[1].item() == pytest.approx(apart[0].item(), rel=1e-12)
    assert apart[2].item() == pytest.approx(apart[0].item(), rel=1e-12)


def test_the_plugin_is_it_less_the_divergence_of_its_weights():
    z, kappa = F.normalize(rows(20, 6, 0) + 0.5, dim=1), 10.0
    kernel = (kappa * z @ z.T).exp().fill_diagonal_(0)
    density = kernel.sum(dim=1)
    weights = density / density.sum()
    divergence = (weights * (20 * weights).log()).sum()
    assert divergence > 0.01
    difference = kde_entropy(z, kappa, "renyi2") - kde_entropy(z, kappa, "plugin")
    assert difference.item() == pytest.approx(divergence.item(), rel=1e-9)


def gradients(z, estimators, kappa):
    """Of each estimator, along the sphere."""
    of_each = []
    for estimator in estimators:
        x = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(kde_entropy(F.normalize(x, dim=1), kappa, estimator), x)
        of_each.append(gradient)
    return of_each


@pytest.mark.parametrize("kappa", [1.0, 4.0, 30.0])
def test_all_estimators_have_one_gradient_where_the_density_is_the_same_at_every_row(kappa):
    # pairs of neighbours on a circle: no optimum, so that there is a gradient, but every row alike
    first = torch.arange(3, dtype=torch.float64) * 2 * math.pi / 3
    angles = torch.cat([first, first + 0.4])
    z = torch.stack([angles.cos(), angles.sin()], dim=1)
    joe, plugin, renyi = gradients(z, ("joe", "plugin", "renyi2"), kappa)
    assert joe.norm() > 1e-3
    torch.testing.assert_close(renyi, joe, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(plugin, joe, rtol=1e-9, atol=1e-12)


def test_they_part_where_the_density_differs_the_more_the_sharper_the_kernel():
    z = F.normalize(rows(40, 6, 0) + torch.linspace(0, 3, 40)[:, None], dim=1)
    parted = []
    for kappa in (1.0, 4.0, 30.0):
        joe, renyi = gradients(z, ("joe", "renyi2"), kappa)
        parted.append(F.cosine_similarity(joe.flatten(), renyi.flatten(), dim=0).item())
    assert parted[0] > 0.9
    assert parted[0] > parted[1] > parted[2]
    assert parted[2] < 0.7


def test_both_have_the_simplex_as_their_optimum():
    """Wang and Isola's theorem at N = d + 1: at the regular simplex neither has a gradient left."""
    simplex = F.normalize(torch.eye(5, dtype=torch.float64) - 0.2, dim=1)
    for gradient in gradients(simplex, ("joe", "renyi2"), 4.0):
        assert gradient.norm() < 1e-12
    start = F.normalize(rows(5, 5, 0), dim=1)
    for estimator in ("joe", "renyi2"):
        assert kde_entropy(simplex, 4.0, estimator) > kde_entropy(start, 4.0, estimator)
