"""The best concentration and nearest neighbours, against loops over their definitions."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import digamma, ive

from erssl.entropy import kde_entropy, knn_entropy, sphere_log_area
from erssl.entropy.held_out import best_kappa


def unit_rows(count, dim, seed=0, pull=0.0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    z[:, 0] += pull
    return torch.nn.functional.normalize(z, dim=1)


def log_normalizer(dim, kappa):
    order = dim / 2 - 1
    log_bessel = math.log(ive(order, kappa)) + kappa
    return order * math.log(kappa) - dim / 2 * math.log(2 * math.pi) - log_bessel


def leave_one_out(z, kappa):
    n, dim = z.shape
    total = 0.0
    for i in range(n):
        terms = [math.exp(kappa * (z[i] @ z[j] - 1)) for j in range(n) if j != i]
        total += math.log(math.fsum(terms) / (n - 1)) + kappa
    return total / n + log_normalizer(dim, kappa)


@pytest.mark.parametrize(("dim", "pull"), [(3, 2.0), (8, 6.0), (24, 3.0)])
def test_best_kappa_is_where_the_leave_one_out_likelihood_is_highest(dim, pull):
    z = unit_rows(40, dim, pull=pull)
    rows = z.numpy()
    optimum = minimize_scalar(
        lambda log_kappa: -leave_one_out(rows, math.exp(log_kappa)),
        bounds=(math.log(0.1), math.log(1e4)),
        method="bounded",
    )
    # to the grid's factor of 2^(1/16)
    assert abs(math.log(best_kappa(z)) - optimum.x) < math.log(2) / 16 + 1e-3


def test_the_grid_is_extended_at_both_ends():
    tight = unit_rows(40, 16, pull=400.0)  # κ about d / 400^-2 · d: far above 16 d
    assert best_kappa(tight) > 64 * 16
    flat = torch.eye(16, dtype=torch.float64)  # evenly spread: the flattest kernel is best
    assert best_kappa(flat) < 1


def test_each_half_is_read_by_the_other():
    z = unit_rows(30, 6, pull=3.0)
    halves = z[::2].numpy(), z[1::2].numpy()
    expected = 0.0
    for keys, queries in (halves, halves[::-1]):
        kappa = best_kappa(torch.from_numpy(keys.copy()))
        for q in queries:
            density = np.mean([math.exp(kappa * (q @ k - 1)) for k in keys])
            expected -= (math.log(density) + kappa + log_normalizer(6, kappa)) / 30
    assert kde_entropy(z, "best").item() == pytest.approx(expected, rel=1e-10)
    assert kde_entropy(z, kappa="best").dtype == torch.float64
    assert kde_entropy(z.bfloat16(), "best").dtype == torch.float32


def test_tiles_change_nothing(monkeypatch):
    z = unit_rows(150, 8, pull=3.0)
    whole = kde_entropy(z, "best").item(), knn_entropy(z).item()
    monkeypatch.setattr("erssl.entropy.held_out._HELD", 0)
    monkeypatch.setattr("erssl.entropy.held_out._ROWS", 7)
    monkeypatch.setattr("erssl.entropy.neighbours._ROWS", 7)
    tiled = kde_entropy(z, "best").item(), knn_entropy(z).item()
    assert tiled == pytest.approx(whole, rel=1e-12)


def test_best_refuses_what_would_make_it_no_bound():
    z = unit_rows(8, 4)
    for options, sentence in (
        ({"estimator": "plugin"}, "not estimator='plugin'"),
        ({"leave_one_out": False}, "ever sharper kernels; keep leave_one_out=True"),
        ({"memory": z}, "takes no memory"),
    ):
        with pytest.raises(ValueError, match=sentence):
            kde_entropy(z, "best", **options)
    with pytest.raises(ValueError, match="a number or 'best' but is 'auto'"):
        kde_entropy(z, "auto")
    with pytest.raises(ValueError, match=r"N >= 4 and d >= 2; got \(3, 4\)"):
        kde_entropy(z[:3], "best")


@pytest.mark.parametrize(("count", "dim", "k"), [(2, 2, 1), (20, 3, 3), (30, 50, 1), (30, 50, 29)])
def test_nearest_neighbours_equal_a_loop(count, dim, k):
    z = unit_rows(count, dim)
    from erssl.entropy import cap_log_area

    rows = z.numpy()
    total = 0.0
    for i in range(count):
        chords = sorted(np.linalg.norm(rows[i] - rows[j]) for j in range(count) if j != i)
        angle = 2 * math.asin(min(1.0, chords[k - 1] / 2))
        total += float(cap_log_area(dim, torch.tensor(angle, dtype=torch.float64))) / count
    expected = digamma(count) - digamma(k) + total
    assert knn_entropy(z, k).item() == pytest.approx(expected, rel=1e-12)


def test_angles_far_below_float32s_resolution_of_cosines_are_seen():
    # cosines of rows 1e-6 apart differ from 1 by 5e-13: the chord has them, the cosine does not
    generator = torch.Generator().manual_seed(0)
    step = 1e-6 * torch.randn(200, 2, generator=generator, dtype=torch.float64)
    z = torch.nn.functional.normalize(
        torch.cat([torch.ones(200, 1, dtype=torch.float64), step], dim=1), dim=1
    )
    # a Gaussian on the tangent plane; 0.3 is three of the estimate's deviations at N = 200
    expected = math.log(2 * math.pi * math.e * 1e-12)
    assert knn_entropy(z).item() == pytest.approx(expected, abs=0.3)


def test_duplicates_have_no_density():
    z = unit_rows(1, 8).repeat(12, 1)
    assert knn_entropy(z).item() == -math.inf
    assert kde_entropy(z, "best").item() == -math.inf
    assert knn_entropy(z.float()).item() == -math.inf
    pairs = unit_rows(10, 8).repeat_interleave(2, dim=0)
    assert knn_entropy(pairs, k=1).item() == -math.inf
    assert math.isfinite(knn_entropy(pairs, k=2).item())
    z[0, 0] = math.nan
    assert math.isnan(knn_entropy(z).item())
    assert math.isnan(kde_entropy(z, "best").item())


@pytest.mark.parametrize("estimate", [knn_entropy, lambda z: kde_entropy(z, "best")])
def test_only_directions_count_and_rows_without_one_are_copies(estimate):
    z = unit_rows(30, 6, pull=2.0)
    expected = estimate(z).item()
    for scale in (1e-300, 1e-20, 1e200):
        assert estimate(scale * z).item() == pytest.approx(expected, rel=1e-9)
    assert estimate(torch.zeros(12, 6)).item() == -math.inf


def test_whole_numbers_are_read_as_such():
    z = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1]])
    for estimate in (knn_entropy, lambda z: kde_entropy(z, 10.0), lambda z: kde_entropy(z, "best")):
        assert estimate(z).dtype == torch.float32
        assert estimate(z).item() == pytest.approx(estimate(z.double()).item(), rel=1e-5)


def test_gradients_equal_finite_differences():
    z = unit_rows(12, 4, pull=2.0).requires_grad_()

    def normalised(rows):
        return torch.nn.functional.normalize(rows, dim=1)

    assert torch.autograd.gradcheck(lambda rows: knn_entropy(normalised(rows), 2), z)
    (gradient,) = torch.autograd.grad(kde_entropy(normalised(z), "best"), z)
    assert gradient.isfinite().all()
    assert gradient.norm() > 0


def test_a_pair_on_opposite_sides_has_a_finite_gradient():
    """ψ(2) - ψ(1) and the logarithm of the whole sphere; the slope of the arc sine has no end."""
    z = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    entropy = knn_entropy(z, k=1)
    entropy.backward()
    assert entropy.item() == pytest.approx(1 + math.log(4 * math.pi), abs=1e-6)
    assert z.grad.isfinite().all()


def test_copies_count_as_closest_and_are_pushed_nowhere():
    """On the circle: a cap of angle θ has the length 2θ."""
    z = torch.tensor([[1.0, 0.0]] * 4, dtype=torch.float64, requires_grad=True)
    entropy = knn_entropy(z, k=3, closest=1e-3)
    entropy.backward()
    expected = digamma(4) - digamma(3) + math.log(2 * 2 * math.asin(0.5e-3))
    assert entropy.item() == pytest.approx(expected, abs=1e-9)
    assert (z.grad == 0).all()


def test_neighbours_out_of_range_are_named():
    z = unit_rows(5, 3)
    for k in (0, 5, 1.5, True):
        with pytest.raises(ValueError, match=r"an integer from 1 to N - 1 = 4 but is"):
            knn_entropy(z, k)
    with pytest.raises(ValueError, match=r"shape \(N, d\) with d >= 2"):
        knn_entropy(z[:, :1])


def test_a_uniform_circle_reads_its_length():
    z = unit_rows(4000, 2)
    assert knn_entropy(z).item() == pytest.approx(sphere_log_area(2), abs=0.05)
