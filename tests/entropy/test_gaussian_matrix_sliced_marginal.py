"""Gaussian, spectral, sliced and marginal quantities against numpy, scipy and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import logm
from scipy.special import digamma
from scipy.stats import differential_entropy, multivariate_normal, norm

from erssl.entropy import (
    coding_rate,
    coding_series,
    effective_rank,
    gaussian_entropy,
    knn_entropy,
    marginal_entropy,
    matrix_renyi2_entropy,
    nuclear_norm,
    random_directions,
    sliced_epps_pulley,
    sliced_wasserstein,
    von_neumann_entropy,
)
from erssl.entropy._slices import _order
from erssl.entropy.gaussian import log_det


def rows(n, d, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)


def slices(dim):
    return random_directions(dim, 5, torch.Generator().manual_seed(3))


FUNCTIONS = {
    "gaussian": gaussian_entropy,
    "gaussian with noise": lambda z: gaussian_entropy(z, 0.1),
    "coding rate": coding_rate,
    "von Neumann": von_neumann_entropy,
    "Rényi-2": matrix_renyi2_entropy,
    "Epps-Pulley": lambda z: sliced_epps_pulley(z, slices(z.shape[1])),
    "Wasserstein": lambda z: sliced_wasserstein(z, slices(z.shape[1])),
    "marginal": marginal_entropy,
    "coding series": lambda z: coding_series(z, z.roll(1, 0), 30.0),
    "nuclear norm": nuclear_norm,
}


@pytest.mark.parametrize(("n", "d"), [(40, 6), (6, 40), (12, 12)])
@pytest.mark.parametrize("noise", [0.0, 0.01, 2.0])
def test_gaussian_entropy_equals_scipys_of_the_same_covariance(n, d, noise):
    z = rows(n, d) * 3 + 1
    covariance = np.cov(z.numpy().T, bias=True) + noise * np.eye(d)
    computed = gaussian_entropy(z, noise).item()
    if noise == 0 and n <= d:
        assert computed == -math.inf
    else:
        expected = multivariate_normal(np.zeros(d), covariance).entropy()
        assert computed == pytest.approx(expected, rel=1e-9)


def test_gaussian_entropy_is_below_that_of_the_true_covariance_by_the_bias_that_it_names():
    # E log det of a Wishart matrix is a sum of digammas
    n, d = 200, 20
    reads = [gaussian_entropy(rows(n, d, seed)).item() for seed in range(40)]
    exact = 0.5 * d * math.log(2 * math.pi * math.e)
    bias = 0.5 * sum(digamma((n - 1 - j) / 2) + math.log(2 / n) for j in range(d))
    assert np.mean(reads) - exact == pytest.approx(bias, abs=3 * np.std(reads) / math.sqrt(40))
    assert bias == pytest.approx(-(d**2) / (4 * n), abs=0.15)


def test_a_covariance_without_full_rank_has_no_entropy():
    z = rows(40, 6)
    z[:, 5] = z[:, :5].sum(dim=1)
    assert gaussian_entropy(z * 0).item() == -math.inf
    assert gaussian_entropy(z).item() < gaussian_entropy(rows(40, 6)).item() - 10
    z[0, 0] = math.nan
    assert math.isnan(gaussian_entropy(z, 0.1).item())


@pytest.mark.parametrize("n", [4, 10])
def test_a_point_has_no_entropy_and_a_gradient_of_0(n):
    """Also of more rows than dimensions, whose determinant has no factor."""
    z = torch.ones(n, 6, dtype=torch.float64, requires_grad=True)
    value = gaussian_entropy(z)
    assert value.item() == -math.inf
    (first,) = torch.autograd.grad(value, z, create_graph=True)
    assert first.eq(0).all()


def test_a_determinant_that_is_no_number_has_no_gradient_that_is_one():
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[0, 0] = math.nan
    matrix.requires_grad_()
    (gradient,) = torch.autograd.grad(log_det(matrix), matrix)
    assert gradient.isnan().all()


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("unit", [False, True])
def test_gaussian_entropy_of_float32_rows_is_that_of_float64(noise, unit):
    """Also where the noise is far below what float32 tells apart in a covariance."""
    z = rows(64, 128, dtype=torch.float32)
    z = torch.nn.functional.normalize(z, dim=1) if unit else z
    expected = gaussian_entropy(z.double(), noise)
    computed = gaussian_entropy(z, noise)
    assert computed.dtype == torch.float32
    assert computed.item() == pytest.approx(expected.item(), rel=1e-6)
    covariance = np.cov(z.double().numpy().T, bias=True) + noise * np.eye(128)
    exact = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * covariance)[1]
    assert expected.item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (6, 40)])
def test_coding_rate_equals_the_determinant_on_either_side(n, d):
    z = torch.nn.functional.normalize(rows(n, d), dim=1).numpy()
    for side in (z.T @ z, z @ z.T):
        _, log_det = np.linalg.slogdet(np.eye(len(side)) + d / (n * 0.2) * side)
        assert coding_rate(torch.from_numpy(z), 0.2).item() == pytest.approx(0.5 * log_det)
    ceiling = 0.5 * d * math.log(1 + 1 / 0.2)
    assert coding_rate(torch.from_numpy(z), 0.2).item() < ceiling
    assert coding_rate(torch.eye(5), 0.2).item() == pytest.approx(2.5 * math.log(6), rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(30, 4), (4, 30)])
def test_matrix_entropies_equal_the_matrix_logarithm_and_power(n, d):
    z = rows(n, d)
    gram = (z @ z.T if n < d else z.T @ z).numpy()
    gram /= np.trace(gram)
    assert von_neumann_entropy(z).item() == pytest.approx(-np.trace(gram @ logm(gram)).real)
    assert matrix_renyi2_entropy(z).item() == pytest.approx(-math.log(np.trace(gram @ gram)))
    assert 0 < matrix_renyi2_entropy(z) < von_neumann_entropy(z) < math.log(4)


def test_matrix_entropies_at_their_ends():
    point = torch.ones(9, 4)
    for function in (von_neumann_entropy, matrix_renyi2_entropy):
        assert function(point).item() == pytest.approx(0, abs=1e-5)
        assert function(torch.eye(6)).item() == pytest.approx(math.log(6))
        assert function(torch.zeros(3, 2)).item() == 0
    assert math.isnan(von_neumann_entropy(point * math.nan).item())
    # the squared singular values' shares; RankMe takes those of the singular values themselves
    assert von_neumann_entropy(rows(20, 8)).exp() < effective_rank(rows(20, 8))


@pytest.mark.parametrize("function", [von_neumann_entropy, matrix_renyi2_entropy])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrix_entropies_do_not_mind_the_scale(function, dtype):
    """Nor hide what is not finite: the spectrum has trace 1, whatever the size of the rows."""
    z = rows(6, 3)
    expected = function(z).item()
    for scale in (1e-30, 1e-21, 1e-10, 1e10, 1e21, 1e30):
        scaled = (scale * z).to(dtype).requires_grad_()
        value = function(scaled)
        assert value.item() == pytest.approx(expected, rel=1e-5), scale
        (gradient,) = torch.autograd.grad(value, scaled)
        wanted = z.clone().requires_grad_()
        (exact,) = torch.autograd.grad(function(wanted), wanted)
        torch.testing.assert_close(scale * gradient.double(), exact, rtol=1e-4, atol=1e-5)
    for lost in (math.nan, math.inf):
        z[0, 0] = lost
        assert math.isnan(function(z).item())


def test_epps_pulley_equals_the_integral():
    x = rows(30, 4)
    directions = slices(4).double()
    total = 0.0
    for s in range(5):
        projected = (x @ directions[:, s]).numpy()

        def integrand(t, y=projected):
            gap = np.exp(1j * t * y).mean() - math.exp(-(t**2) / 2)
            return abs(gap) ** 2 * math.exp(-(t**2) / 2)

        total += 30 * quad(integrand, -3, 3)[0] / 5
    # the trapezoid rule on 17 knots of a smooth function is good to a thousandth
    assert sliced_epps_pulley(x, directions).item() == pytest.approx(total, rel=2e-3)


def test_epps_pulley_of_gaussian_rows_has_the_mean_that_it_names():
    reads = [sliced_epps_pulley(rows(200, 6, s), slices(6)).item() for s in range(60)]
    exact = quad(lambda t: (1 - math.exp(-(t**2))) * math.exp(-(t**2) / 2), -3, 3)[0]
    assert exact == pytest.approx(1.05, abs=0.01)
    assert np.mean(reads) == pytest.approx(exact, abs=3 * np.std(reads) / math.sqrt(60))


def test_sliced_wasserstein_equals_a_loop_over_quantiles():
    x = rows(25, 4) * 2 + 0.5
    total = 0.0
    for s in range(5):
        ordered = np.sort((x @ slices(4)[:, s].double()).numpy())
        quantiles = norm.ppf((np.arange(25) + 0.5) / 25)
        total += np.mean((ordered - quantiles) ** 2) / 5
    assert sliced_wasserstein(x, slices(4)).item() == pytest.approx(total)
    near = sliced_wasserstein(rows(20000, 4), slices(4)).item()
    assert near < 0.01 < total


@pytest.mark.parametrize("function", [sliced_epps_pulley, sliced_wasserstein])
def test_directions_that_ask_for_a_gradient_get_one(function):
    """As max-sliced distances do; by finite differences."""
    x, w = rows(7, 3), slices(3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: function(x, w), w)
    plain = function(x, w.detach())
    torch.testing.assert_close(function(x, w), plain)


def test_directions_are_of_float32_whatever_the_default_precision():
    """Columns of bfloat16 would not have unit norm."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        directions = random_directions(8, 64)
    finally:
        torch.set_default_dtype(torch.float32)
    assert directions.dtype == torch.float32
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(64))


def test_directions_are_unit_columns_and_follow_the_generator():
    first, again = (random_directions(7, 9, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.shape == (7, 9)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(9))
    assert torch.equal(first, again)


@pytest.mark.parametrize("m", [1, 4, 20])
def test_marginal_entropy_equals_a_loop_over_spacings(m):
    z = rows(50, 3)
    expected = 0.0
    for column in z.numpy().T:
        ordered = np.sort(column)
        logs = [math.log(ordered[i + m] - ordered[i]) for i in range(50 - m)]
        expected += np.mean(logs) + digamma(51) - digamma(m)
    assert marginal_entropy(z, m).item() == pytest.approx(expected)


def test_marginal_entropy_comes_to_the_truth_and_to_scipys():
    z = rows(4000, 4) * torch.tensor([1.0, 2.0, 0.5, 3.0])
    exact = sum(norm.entropy(scale=s) for s in (1, 2, 0.5, 3))
    assert marginal_entropy(z).item() == pytest.approx(exact, abs=0.2)
    theirs = sum(differential_entropy(column, method="ebrahimi") for column in z.numpy().T)
    assert marginal_entropy(z).item() == pytest.approx(theirs, abs=0.3)  # scipy corrects the ends
    # dimensions that are one and the same have less together, and no marginal knows
    assert marginal_entropy(z[:, :1].repeat(1, 4)).item() == pytest.approx(
        4 * marginal_entropy(z[:, :1]).item()
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_equal_finite_differences_and_autocast_changes_nothing(name):
    z = rows(14, 5).requires_grad_()
    assert torch.autograd.gradcheck(FUNCTIONS[name], z)
    half = rows(20, 8, dtype=torch.bfloat16)
    expected = FUNCTIONS[name](half.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = FUNCTIONS[name](half)
    assert computed.dtype == torch.float32
    assert computed.item() == pytest.approx(expected.item(), rel=1e-6)


def test_wrong_arguments_are_named():
    z = rows(6, 3)
    with pytest.raises(ValueError, match="noise must be a variance of at least 0 but is -1"):
        gaussian_entropy(z, -1)
    with pytest.raises(ValueError, match="distortion must be above 0 but is 0"):
        coding_rate(z, 0)
    with pytest.raises(ValueError, match="spacing m must be from 1 to N - 1 = 5 but is 6"):
        marginal_entropy(z, 6)
    with pytest.raises(ValueError, match="must have one dimension d but have shapes"):
        sliced_wasserstein(z, torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"spacing m must be from 1 to N - 1 = 5 but is 1\.5"):
        marginal_entropy(z, 1.5)
    with pytest.raises(ValueError, match="floor of spacings must be at least 0 but is nan"):
        marginal_entropy(z, floor=math.nan)
    of_matrices = (gaussian_entropy, coding_rate, von_neumann_entropy, matrix_renyi2_entropy)
    for function in (*of_matrices, nuclear_norm):
        for wrong in (z[0], z[:, :0], z[:0]):
            with pytest.raises(ValueError, match=r"shape \(N, d\)"):
                function(wrong)
    with pytest.raises(ValueError, match="N >= 2"):
        marginal_entropy(z[:1])


@pytest.mark.parametrize(("n", "d"), [(9, 4), (4, 9)])
def test_nuclear_norm_and_its_gradient_are_those_of_the_svd(n, d):
    z = rows(n, d).requires_grad_()
    torch.testing.assert_close(nuclear_norm(z), torch.linalg.svdvals(z).sum())
    nuclear_norm(z).backward()
    left, _, right = torch.linalg.svd(z.detach(), full_matrices=False)
    torch.testing.assert_close(z.grad, left @ right, rtol=1e-9, atol=1e-9)
    point = torch.zeros(3, 2).requires_grad_()
    nuclear_norm(point).backward()
    assert torch.equal(point.grad, torch.zeros(3, 2))


@pytest.mark.parametrize(("n", "d"), [(9, 4), (4, 9)])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_a_coding_series_is_that_of_the_logarithm(n, d, order):
    z0, z1 = rows(n, d), rows(n, d, 1)
    c = (d / (n * 40.0) * z0.T @ z1).numpy()
    powers = [np.linalg.matrix_power(c, k) for k in range(1, order + 1)]
    expected = sum((-1) ** k / (k + 1) * np.trace(power) for k, power in enumerate(powers))
    assert coding_series(z0, z1, 40.0, order).item() == pytest.approx(expected)
    if order == 5:
        assert expected == pytest.approx(np.log(np.linalg.det(np.eye(d) + c)), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [sliced_epps_pulley, sliced_wasserstein])
def test_slices_in_tiles_equal_the_plain_sums_also_in_second_derivatives(function, dtype):
    x = rows(70, 3, dtype=dtype).requires_grad_()
    directions = random_directions(3, 300, torch.Generator().manual_seed(3)).to(dtype)
    value = function(x, directions)
    (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
    (again,) = torch.autograd.grad(value, x, create_graph=True)  # by autograd's operations
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(gradient, again, rtol=tolerance, atol=tolerance)
    (second,) = torch.autograd.grad(again.square().sum(), x)
    assert second.isfinite().all() and second.abs().max() > 0
    with torch.no_grad():
        assert torch.equal(function(x, directions), value)


@pytest.mark.parametrize("function", [gaussian_entropy, coding_rate])
def test_log_determinants_have_second_derivatives(function):
    z = rows(6, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(function, z)
    assert torch.autograd.gradgradcheck(coding_rate, rows(3, 6).requires_grad_())


@pytest.mark.parametrize(("n", "d"), [(7, 4), (4, 7)])
@pytest.mark.parametrize("function", [nuclear_norm, knn_entropy])
def test_second_derivatives_equal_finite_differences(function, n, d):
    z = rows(n, d, seed=2).requires_grad_()
    assert torch.autograd.gradgradcheck(function, (z,))
    hessian = torch.func.jacrev(torch.func.jacrev(nuclear_norm))(z.detach())
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(nuclear_norm, z))
    assert hessian.abs().max() > 0.1


def test_epps_pulley_of_rows_on_two_ranks_has_no_more_than_it_can_have():
    z, directions = rows(6, 3).requires_grad_(), slices(3)

    def shared(z):  # another rank holds the same rows
        return sliced_epps_pulley(z, directions, lambda sums: 2 * sums, 2)

    expected = sliced_epps_pulley(torch.cat([z, z]), directions)
    torch.testing.assert_close(shared(z), expected)
    (gradient,) = torch.autograd.grad(expected, z)
    torch.testing.assert_close(2 * torch.autograd.grad(shared(z), z)[0], gradient)
    with pytest.raises(RuntimeError, match="has a first derivative only"):
        torch.autograd.grad(shared(z), z, create_graph=True)
    with pytest.raises(RuntimeError, match="has a first derivative only"):
        torch.func.grad(shared)(z)
    torch._dynamo.reset()
    with pytest.raises(RuntimeError, match="leave this loss out of"):
        torch.compile(shared, backend="eager")(z)


@pytest.mark.parametrize("position", [-0.1, 1.0, math.nan])
def test_a_plotting_position_at_infinity_is_refused(position):
    with pytest.raises(ValueError, match="plotting position"):
        sliced_wasserstein(rows(4, 3), slices(3), position)


def epps_pulley_in_float64(x, directions):
    """Value, and gradient (N, d), spelt out for 16 frequencies beyond 0."""
    n, value, gradient = len(x), 0.0, np.zeros_like(x)
    for w in directions.T:
        y = x @ w
        for k in range(1, 17):
            t = 3 * k / 16
            weight = (3 / 16) * (2 if k < 16 else 1) * math.exp(-(t**2) / 2) / directions.shape[1]
            gap = np.exp(1j * t * y).mean() - math.exp(-(t**2) / 2)
            value += n * weight * abs(gap) ** 2
            slope = 2 * (gap.conjugate() * 1j * t * np.exp(1j * t * y)).real
            gradient += weight * np.outer(slope, w)
    return value, gradient


@pytest.mark.parametrize("n", [3, 300, 301])
@pytest.mark.parametrize(("scale", "shift"), [(0.01, 0.0), (1.0, 0.0), (1.0, 1.0), (4.0, 0.0)])
def test_epps_pulley_in_float32_is_good_to_a_millionth(n, scale, shift):
    x = (scale * rows(n, 24) + shift).float().requires_grad_()
    directions = random_directions(24, 40, torch.Generator().manual_seed(1))
    value = sliced_epps_pulley(x, directions)
    value.backward()
    expected = epps_pulley_in_float64(x.detach().double().numpy(), directions.double().numpy())
    assert value.item() == pytest.approx(expected[0], rel=2e-7)
    off = np.linalg.norm(x.grad.double().numpy() - expected[1])
    assert off <= 1e-6 * np.linalg.norm(expected[1])


@pytest.mark.parametrize("n", [1, 5, 130])
def test_sorting_by_packed_indices_is_a_sort(n):
    x = torch.cat([rows(n, 9).float().T, -rows(n, 9, 1).float().T, torch.zeros(1, n)])
    x = torch.cat([x, x.round(), -x.abs(), x.repeat(3, 1)])  # copies, zeros of either sign
    order = _order(x)
    assert torch.equal(x.gather(1, order), x.sort(dim=1).values)
    assert torch.equal(order.sort(dim=1).values, torch.arange(n).expand_as(order))
