"""The Stein score of rows that are not normalised: formula, Gaussians, invariances."""

import math

import numpy as np
import pytest
import torch

from erssl.entropy import entropy_from_score, stein_score


def gaussian(count, dim, seed=0, scale=1.0):
    """Rows of N(mu, Sigma) with a Sigma that is not diagonal, and their score."""
    random = np.random.default_rng(seed)
    root = np.linalg.qr(random.normal(size=(dim, dim)))[0] * np.linspace(0.6, 1.6, dim)
    mean = random.normal(size=dim) * 3
    z = scale * (mean + random.normal(size=(count, dim)) @ root.T)
    precision = np.linalg.inv(scale**2 * root @ root.T)
    return z, -(z - scale * mean) @ precision


def brute_force(z, eta, delta=None):
    """Li and Turner's estimate, the gradient of the kernel by its formula, one pair at a time."""
    n = len(z)
    if delta is None:
        halves = sorted(0.5 * np.sum((z[i] - z[j]) ** 2) for i in range(n) for j in range(i))
        delta = halves[(len(halves) - 1) // 2]
    kernel, right = np.empty((n, n)), np.zeros_like(z)
    for i in range(n):
        for j in range(n):
            kernel[i, j] = np.exp(-np.sum((z[i] - z[j]) ** 2) / (2 * delta))
            right[i] += kernel[i, j] * (z[i] - z[j]) / delta
    return -np.linalg.solve(kernel + eta * np.eye(n), right)


@pytest.mark.parametrize("eta", [0.01, 1.0])
@pytest.mark.parametrize(("count", "dim"), [(2, 2), (30, 3), (40, 50)])
def test_it_is_the_formula(count, dim, eta):
    z, _ = gaussian(count, dim)
    computed = stein_score(torch.from_numpy(z), eta=eta, kernel="rbf")
    np.testing.assert_allclose(computed.numpy(), brute_force(z, eta), rtol=1e-7, atol=1e-9)
    single = stein_score(torch.from_numpy(z).float(), 0.7 * dim, eta, kernel="rbf")
    expected = brute_force(z.astype(np.float32).astype(np.float64), eta, 0.7 * dim)
    assert single.dtype == torch.float32
    assert np.linalg.norm(single.numpy() - expected) < 1e-5 * np.linalg.norm(expected)


def error(score, expected):
    return np.linalg.norm(score.numpy() - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dim", [1, 2, 4])
def test_the_score_of_a_gaussian_is_met_and_better_with_more_rows(dim, scale):
    errors = []
    for count in (100, 1000):
        z, expected = gaussian(count, dim, seed=1, scale=scale)
        score = stein_score(torch.from_numpy(z), eta=1.0, bandwidth_scale=2.0, kernel="rbf")
        errors.append(error(score, expected))
    assert errors[1] < errors[0]
    assert errors[1] < 0.25


def test_it_moves_with_the_rows_turns_with_them_and_shrinks_as_they_grow():
    z, _ = gaussian(60, 3)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    plain = stein_score(torch.from_numpy(z), kernel="rbf")
    moved = stein_score(torch.from_numpy(1e4 + 10 * z @ turn), kernel="rbf")
    np.testing.assert_allclose(10 * moved.numpy(), plain.numpy() @ turn, rtol=1e-6, atol=1e-8)


def test_on_the_sphere_it_is_the_other_kernel_but_for_the_own_rows_part():
    """Of unit rows K is MVEB's but for a factor; its gradient has the other row's part more."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, 5, dtype=torch.float64, generator=generator)
    z = torch.nn.functional.normalize(z, dim=1)
    delta, eta = 0.8, 0.01
    kernel = ((z @ z.T - 1) / delta).exp()
    identity = torch.eye(50, dtype=torch.float64)
    others_part = torch.linalg.solve(kernel + eta * identity, kernel @ z / delta)
    ridge = eta * math.exp(1 / delta)  # of the kernel exp(z·z / Δ), whose diagonal is exp(1/Δ)
    difference = stein_score(z, delta, eta, kernel="rbf") - stein_score(z, delta, ridge)
    torch.testing.assert_close(difference, others_part, rtol=1e-9, atol=1e-11)
    assert others_part.norm() > 0.1 * stein_score(z, delta, ridge).norm()


def test_views_columns_and_points():
    views = torch.stack([torch.from_numpy(gaussian(40, 6, seed)[0]) for seed in (0, 1)])
    whole = stein_score(views, kernel="rbf")
    alone = torch.stack([stein_score(view, kernel="rbf") for view in views])
    torch.testing.assert_close(whole, alone)
    part = stein_score(views, columns=slice(2, 5), kernel="rbf")
    torch.testing.assert_close(part, whole[..., 2:5])
    assert stein_score(torch.ones(9, 4), kernel="rbf").abs().max() == 0
    assert stein_score(torch.randn(1, 4), kernel="rbf").abs().max() == 0
    assert stein_score(views.float().half().float(), eta=0.0, kernel="rbf").isfinite().all()


def test_the_entropy_of_rows_grows_along_it():
    """A Gaussian's entropy grows by 1 in each dimension where all lengths grow by a factor e."""
    z, _ = gaussian(1000, 2, seed=2)
    rows = torch.from_numpy(z).requires_grad_()
    surrogate = entropy_from_score(rows, stein_score(rows, eta=1.0, kernel="rbf"))
    (gradient,) = torch.autograd.grad(surrogate, rows)
    centred = rows - rows.mean(dim=0)
    assert (gradient * centred).sum().item() == pytest.approx(2.0, rel=0.1)


def test_a_compiled_graph_computes_the_same():
    z = torch.from_numpy(gaussian(20, 3)[0])
    compiled = torch.compile(
        lambda x: stein_score(x, kernel="rbf", bandwidth_scale=2.0), backend="eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(z), stein_score(z, kernel="rbf", bandwidth_scale=2.0))


def test_copies_do_not_make_the_bandwidth_rounding():
    """The median is that of the rows that differ, so that scores stay those of their spread."""
    torch.manual_seed(0)
    z = torch.randn(128, 32, dtype=torch.float64)
    apart = stein_score(z, kernel="rbf").abs().max()
    for share in (0.69, 0.73, 0.95, 0.99):
        copies = z.clone()
        copies[: int(share * 128)] = z[0]
        score = stein_score(copies, kernel="rbf")
        assert 0 < score.abs().max() < 20 * apart
