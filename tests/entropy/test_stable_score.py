"""The score that has the right size at any number of rows: formula, ridge, known scores."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from erssl.entropy import auto_ridge, median_bandwidth, stein_score
from erssl.entropy.score_reference import reference_score

from .test_stein_score import (
    both_geometries,
    relative_error,
    tangential_error,
    unit_rows,
    vmf_with_score,
)
from .test_stein_score import reference_score as numpy_score

STABLE = {"eta": "auto", "geometry": "sphere", "shrink_to": "vmf"}
both_targets = pytest.mark.parametrize("shrink_to", ["zero", "vmf"])


def numpy_vmf_score(z):
    """kappa (mu - (mu·z) z), kappa mu the solution of score matching along the mean direction."""
    z = np.asarray(z, dtype=np.float64)
    count, dim = z.shape
    length = np.linalg.norm(z.mean(axis=0))
    direction = z.mean(axis=0) / length
    # cosine of different rows, the unbiased square of the population's mean
    between = (np.square(z.sum(axis=0)).sum() - count) / (count * (count - 1))
    sines = 1 - np.square(z @ direction)
    kappa = (dim - 1) * length / sines.mean() * min(max(between / length**2, 0), 1)
    return kappa * (direction - np.outer(z @ direction, np.ones(dim)) * z)


@both_geometries
@both_targets
@pytest.mark.parametrize("around", [0.0, 0.5])
def test_the_reference_function_and_the_fast_path_are_the_formula(geometry, shrink_to, around):
    z, eta = unit_rows(60, 12, dtype=torch.float64, around=around), 3.0
    delta = median_bandwidth(z).item()
    expected = numpy_score(z, eta, geometry)
    if shrink_to == "vmf":
        kernel = np.exp(z.numpy() @ z.numpy().T / delta)
        system = kernel + eta * np.eye(60)
        expected = expected + eta * np.linalg.solve(system, numpy_vmf_score(z))
    plain = reference_score(z, delta, eta, geometry, shrink_to)
    np.testing.assert_allclose(plain.numpy(), expected, rtol=1e-9, atol=1e-9)
    fast = stein_score(z, eta=eta, geometry=geometry, shrink_to=shrink_to)
    np.testing.assert_allclose(fast.numpy(), expected, rtol=1e-9, atol=1e-9)


@both_geometries
@both_targets
@pytest.mark.parametrize("count", [300, 128])
def test_the_fast_path_in_float32_equals_the_reference_function(geometry, shrink_to, count):
    z = unit_rows(count, 160, around=0.2)
    options = {"eta": 1.0, "geometry": geometry, "shrink_to": shrink_to}
    expected = reference_score(z, median_bandwidth(z).item(), **options).numpy()
    assert relative_error(stein_score(z, **options), expected) < 5e-4


def test_a_large_ridge_leaves_the_score_of_the_density_that_fits():
    z = unit_rows(50, 8, dtype=torch.float64, around=0.4)
    score = stein_score(z, eta=1e12, geometry="sphere", shrink_to="vmf")
    np.testing.assert_allclose(score.numpy(), numpy_vmf_score(z), rtol=1e-6, atol=1e-6)


# The ridge ------------------------------------------------------------------------------------


def field_at(x, a, delta, eta, geometry, shrink_to):
    """The estimate of the rows a at any point x of the sphere, by its definition."""
    dim, x = a.shape[1], x / x.norm()
    kernel = ((a @ a.T - 1) / delta).exp()
    normalised_eta = float(eta * torch.exp(1 / delta))  # of the kernel that is not scaled
    s = reference_score(a, float(delta), normalised_eta, geometry, shrink_to)
    sigma = len(a) / torch.linalg.inv(kernel + eta * torch.eye(len(a), dtype=a.dtype)).trace()
    weights = ((a @ x - 1) / delta).exp()[:, None]
    steps = x / delta
    if geometry == "sphere":
        steps = (x - (a @ x)[:, None] * a) / delta - (dim - 1) * a
    field = -(weights * (s + steps)).sum(dim=0) / sigma
    if shrink_to == "vmf":
        direction = a.mean(dim=0) / a.mean(dim=0).norm()
        at_rows = numpy_vmf_score(a)
        across = direction - (a @ direction)[:, None] * a
        kappa = float((torch.from_numpy(at_rows) * across).sum() / across.square().sum())
        field = field + kappa * direction
    return field - (field @ x) * x


def criterion(a, b, *options):
    """Score matching on the rows b, the divergence by automatic differentiation."""
    total = 0.0
    for x in b:
        jacobian = torch.autograd.functional.jacobian(lambda y: field_at(y, a, *options), x)
        total += field_at(x, a, *options).square().sum() / 2 + jacobian.trace()
    return float(total)


@both_geometries
@both_targets
@pytest.mark.parametrize("count", [12, 13])
def test_the_auto_ridge_is_the_best_on_either_half(geometry, shrink_to, count):
    z = unit_rows(count, 4, seed=3, dtype=torch.float64, around=0.7)
    delta, m = median_bandwidth(z), (count + 1) // 2
    halves = z[0::2], z[1::2]
    candidates = [m**0.5 * 3.0**j for j in range(-7, 6)]
    losses = np.array(
        [
            sum(
                criterion(*pair, delta, eta, geometry, shrink_to) for pair in (halves, halves[::-1])
            )
            for eta in candidates
        ]
    )
    best = min(max(int(losses.argmin()), 1), 11)
    left, middle, right = losses[best - 1 : best + 2]
    move = np.clip((left - right) / (2 * (left - 2 * middle + right)), -1, 1)
    expected = m**0.5 * 3.0 ** (best - 7 + move) * (count / m) ** 0.5
    assert float(auto_ridge(z, delta, geometry, shrink_to)) == pytest.approx(expected, rel=1e-5)


# Known scores ---------------------------------------------------------------------------------


def size_of(z, score, true_score):
    """<estimate, truth> / <truth, truth> of the tangential part."""
    score, rows = score.double().numpy(), z.double().numpy()
    tangential = score - (score * rows).sum(axis=1, keepdims=True) * rows
    return (tangential * true_score).sum() / np.square(true_score).sum()


@pytest.mark.parametrize("kappa_per_dim", [0.5, 2.0])
@pytest.mark.parametrize("dim", [8, 32, 128])
def test_the_score_of_vmf_samples_has_the_right_size_and_its_error_falls(dim, kappa_per_dim):
    errors = []
    for count in (64, 512):
        z, true_score = vmf_with_score(kappa_per_dim * dim, count, dim, seed=0)
        score = stein_score(z, **STABLE)
        assert 0.5 < size_of(z, score, true_score) < 1.25
        errors.append(tangential_error(z, score, true_score))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("dim", [8, 128, 512])
@pytest.mark.parametrize("count", [32, 256, 1024])
def test_uniform_rows_have_a_score_near_zero_at_every_number_of_rows(count, dim):
    # The noise of the mean alone, unshrunk, would be (d - 1) / sqrt(N).
    z = unit_rows(count, dim, seed=1)
    score = stein_score(z, **STABLE)
    tangential = score - (score * z).sum(dim=1, keepdim=True) * z
    assert tangential.square().sum(dim=1).mean().sqrt() < 0.02 * dim + 0.5
    if dim == 512 and count == 1024:
        paper = stein_score(z)
        assert (paper - (paper * z).sum(dim=1, keepdim=True) * z).norm() > 10 * tangential.norm()


def test_it_sees_what_no_vmf_density_has():
    # Watson's density exp(k (mu·z)²) has no mean; its score is 2 k (mu·z) (mu - (mu·z) z).
    dim, k = 8, 16.0
    generator = np.random.default_rng(0)
    grid = np.linspace(-1, 1, 200_001)[1:-1]
    density = np.exp(k * (grid**2 - 1)) * (1 - grid**2) ** ((dim - 3) / 2)
    along = generator.choice(grid, 512, p=density / density.sum())
    across = scipy.stats.uniform_direction(dim - 1).rvs(512, random_state=generator)
    z = np.column_stack([along, across * np.sqrt(1 - along**2)[:, None]])
    truth = 2 * k * along[:, None] * (np.eye(dim)[0] - along[:, None] * z)
    rows = torch.from_numpy(z)
    score = stein_score(rows, **STABLE)
    assert 0.5 < size_of(rows, score, truth) < 1.25
    assert tangential_error(rows, score, truth) < 0.5


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64])
def test_it_is_finite_and_repeats_itself_wherever_training_can_end_up(count):
    for z in (
        unit_rows(count, 8),
        unit_rows(1, 8).repeat(count, 1),
        torch.zeros(count, 8),
        unit_rows(count, 8, around=1e4),
        torch.cat([unit_rows(1, 8), -unit_rows(1, 8)]).repeat(count, 1),
    ):
        score = stein_score(z, **STABLE)
        assert score.isfinite().all()
        assert torch.equal(score, stein_score(z, **STABLE))
        # κ is at most (d - 1) / 1e-3, the kernel's part (d - 1 + 1 / Δ) of the order
        assert score.norm(dim=1).max() < 1.1 * 7e3


def test_the_recorded_sizes_hold_what_the_docs_say():
    # python -m benchmarks.score_error
    file = Path(__file__).parents[2] / "benchmarks" / "results" / "score_error.json"
    cells = [c for c in json.loads(file.read_text())["cells"] if c["density"] == "vmf"]
    seen = {(c["dim"], c["n"], c["kappa"] / c["dim"]) for c in cells}
    assert seen >= set(itertools.product((8, 32, 128), (64, 256, 1024, 4096), (0.5, 2.0)))
    for cell in cells:
        assert 0.5 <= cell["stable"]["size"] <= 1.25
        fewer = [
            c["stable"]["error"]
            for c in cells
            if c["n"] < cell["n"] and (c["dim"], c["kappa"]) == (cell["dim"], cell["kappa"])
        ]
        assert all(cell["stable"]["error"] < error for error in fewer)
