"""The term that keeps entropy up pushes rows apart; without it nothing does, and collapse is best.

MMCR's nuclear norm is one term, and the alignment of MatrixSSL grows with its covariances, too: of
these two nothing can be left out that would let rows collapse.
"""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from erssl.entropy import coding_series, random_directions
from erssl.loss import (
    CorInfoMaxLoss,
    E2MCLoss,
    EMPSSLLoss,
    ERLoss,
    FroSSLLoss,
    LeJEPALoss,
    MatrixSSLLoss,
    MECLoss,
    MMCRLoss,
    SimDINOLoss,
    TiCoLoss,
    VISRegLoss,
)

N, D = 16, 6
EPS = 1e-4  # added to VISReg's deviations
E2MC_TERMS = {
    "covariance_weight": 0.0,
    "vicreg_variance_weight": 0.0,
    "vicreg_covariance_weight": 0.0,
}
LOSSES: dict[str, tuple[Callable[..., nn.Module], dict[str, float]]] = {  # and what leaves it out
    "lejepa": (partial(LeJEPALoss, num_slices=32), {"lambda_param": 0.0}),
    "visreg": (partial(VISRegLoss, num_slices=32, shape_weight=0.0), {"lambda_param": 0.0}),
    "simdino": (SimDINOLoss, {"gamma": 0.0}),
    "corinfomax": (partial(CorInfoMaxLoss, D), {"entropy_weight": 0.0}),
    "mec": (MECLoss, {"order": 1}),  # the first term of the series is the alignment
    "frossl": (FroSSLLoss, {"entropy_weight": 0.0}),
    "emp_ssl": (EMPSSLLoss, {"entropy_weight": 0.0}),
    "tico": (partial(TiCoLoss, D), {"rho": 0.0}),
    "e2mc": (partial(E2MCLoss, **E2MC_TERMS), {"entropy_weight": 0.0}),
    "dhel": (partial(ERLoss, 10 / 3, entropy_weight=2.0), {"entropy_weight": 0.0}),
    "hydes": (partial(ERLoss, 10.0), {"entropy_weight": 0.0}),
    "renyi2": (partial(ERLoss, 10.0, "renyi2"), {"entropy_weight": 0.0}),
    "koleo": (partial(ERLoss, 10.0, "koleo"), {"entropy_weight": 0.0}),
}
WITHOUT_A_WEIGHT = {"mmcr": MMCRLoss, "matrixssl": partial(MatrixSSLLoss, uniformity_weight=0.0)}
EVERY = {name: make for name, (make, _) in LOSSES.items()} | WITHOUT_A_WEIGHT
losses_with_a_weight = pytest.mark.parametrize("name", LOSSES)


def draw(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(N, D, dtype=torch.float64, generator=generator)
    return rows - rows.mean(dim=0)


def value(make: Callable[..., nn.Module], first: Tensor, second: Tensor, **options) -> Tensor:
    """The loss of two views, by the same slices each time, of a criterion without a history."""
    torch.manual_seed(0)
    return make(**options)(first, second)


def slope(make: Callable[..., nn.Module], width: float, seed: int, **options) -> float:
    """How the loss of two equal views changes as their rows, around one point, move apart."""
    of_width = torch.tensor(width, dtype=torch.float64, requires_grad=True)
    rows = torch.full((N, D), D**-0.5, dtype=torch.float64) + of_width * draw(seed)
    loss = value(make, rows, rows.clone(), **options)
    return torch.autograd.grad(loss, of_width)[0].item() if loss.requires_grad else 0.0


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("width", [0.02, 0.2])
def test_rows_near_one_point_are_pushed_apart(name, width):
    for seed in range(3):
        assert slope(EVERY[name], width, seed) < -1e-6


@pytest.mark.parametrize("width", [0.02, 0.2])
def test_the_shape_of_visreg_does_not_push_rows_apart(width):
    """Its rows are divided by a deviation that is held fixed: what pushes is the variance term.

    The shape pulls rows in as their width falls, for ordered rows correlate with the quantiles by
    less than 1: by twice what is missing over the width.
    """
    make = partial(VISRegLoss, num_slices=32)
    whole, variance = (slope(make, width, 0, shape_weight=weight) for weight in (1.0, 0.0))
    torch.manual_seed(0)
    directions = random_directions(D, 32).double()
    rows = width * draw(0)
    rows = rows / (rows.std(dim=0, unbiased=False) + EPS)
    ordered = (rows @ directions).sort(dim=0).values
    levels = torch.arange(1, N + 1, dtype=torch.float64) / (N + 1)
    quantiles = torch.special.ndtri(levels)[:, None]
    missing = (ordered.square() - ordered * quantiles).mean().item()
    assert missing > 0
    assert whole - variance == pytest.approx(0.9 * 2 * missing / width, rel=1e-6)


@losses_with_a_weight
def test_without_the_term_equal_views_are_not_moved(name):
    make, without = LOSSES[name]
    for seed in range(3):
        assert slope(make, 0.2, seed, **without) == pytest.approx(0, abs=1e-9)


@losses_with_a_weight
def test_without_the_term_a_collapse_is_an_optimum(name):
    make, without = LOSSES[name]
    point = torch.full((N, D), D**-0.5, dtype=torch.float64)
    views = [point.clone().requires_grad_() for _ in range(2)]
    loss = value(make, *views, **without)
    for gradient in torch.autograd.grad(loss, views, allow_unused=True):
        assert gradient is None or gradient.abs().max() < 1e-9
    for seed in range(5):
        for width in (1e-3, 0.1, 1.0):
            other = value(
                make, point + width * draw(seed), point + width * draw(seed + 9), **without
            )
            assert other > loss


def test_beyond_its_radius_mec_prefers_views_turned_by_45_degrees_to_views_that_agree():
    """Eigenvalues r exp(±iπ/4): the fourth term, -r⁴/4 of real ones, is +r⁴/4 of each."""
    n = dim = 64
    angles = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    plane = torch.zeros(2, n, dim, dtype=torch.float64)
    for view, turn in enumerate((0.0, math.pi / 4)):
        plane[view, :, 0], plane[view, :, 1] = (angles + turn).cos(), (angles + turn).sin()
    distortion = dim / 32  # MEC's
    r = dim / (n * distortion) * n / 2
    assert r == 16
    terms = [(-1) ** (k + 1) / k * 2 * r**k * math.cos(k * math.pi / 4) for k in range(1, 5)]
    assert coding_series(*plane, distortion).item() == pytest.approx(sum(terms), rel=1e-9)
    assert terms[3] > 2 * abs(sum(terms[:3]))
    spread = torch.eye(n, dtype=torch.float64)  # the optimum of the log-determinant
    loss_fn = MECLoss()
    assert loss_fn(*plane) < loss_fn(spread, spread) < loss_fn(plane[0], plane[0])
