"""The vMF normaliser, mean resultant length and entropy against mpmath and scipy."""

import functools
import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch

from erssl.entropy import (
    sphere_log_area,
    vmf_entropy,
    vmf_log_normalizer,
    vmf_mean_resultant_length,
)

DIMS = (2, 3, 8, 64, 128, 256, 2048, 65536)
KAPPAS = (1e-3, 0.1, 1.0, 10.0, 100.0, 1e4, 1e5)
GRID = [(dim, kappa) for dim in DIMS for kappa in KAPPAS]
# besseli(32768, 1e5) alone takes four seconds: the derivatives, which need a second order of it,
# leave the largest kappa out in the largest dimension.
DERIVATIVE_GRID = [cell for cell in GRID if cell != (65536, 1e5)]

mpmath.mp.dps = 40


@functools.cache
def bessel_i(twice_order: int, kappa: float) -> mpmath.mpf:
    return mpmath.besseli(mpmath.mpf(twice_order) / 2, mpmath.mpf(kappa), maxterms=10**7)


def exact_log_normalizer(dim: int, kappa: float) -> mpmath.mpf:
    order = mpmath.mpf(dim) / 2 - 1
    return (
        order * mpmath.log(mpmath.mpf(kappa))
        - mpmath.mpf(dim) / 2 * mpmath.log(2 * mpmath.pi)
        - mpmath.log(bessel_i(dim - 2, kappa))
    )


def exact_log_area(dim: int) -> mpmath.mpf:
    half = mpmath.mpf(dim) / 2
    return mpmath.log(2) + half * mpmath.log(mpmath.pi) - mpmath.loggamma(half)


def exact_mean_resultant_length(dim: int, kappa: float) -> mpmath.mpf:
    return bessel_i(dim, kappa) / bessel_i(dim - 2, kappa)


@pytest.mark.parametrize(("dim", "kappa"), GRID)
def test_log_normalizer_equals_mpmath_to_1e_10(dim, kappa):
    exact = exact_log_normalizer(dim, kappa)
    computed = vmf_log_normalizer(dim, kappa)
    assert computed.dtype == torch.float64
    # The promise is 1e-10 relative; no cell of the grid has a log C near zero.
    assert abs(mpmath.mpf(computed.item()) - exact) <= mpmath.mpf(1e-10) * abs(exact)


@pytest.mark.parametrize(("dim", "kappa"), DERIVATIVE_GRID)
def test_derivative_of_the_log_normalizer_is_minus_the_bessel_ratio(dim, kappa):
    argument = torch.tensor(kappa, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(vmf_log_normalizer(dim, argument), argument)
    exact = float(exact_mean_resultant_length(dim, kappa))
    # Autograd differentiates g = root - nu log(nu + root) - ... term by term; below kappa = nu
    # the terms (each about 1) cancel to A ~ kappa/d. Losing eps * d of them would be 1e-11 at
    # d = 65536, hence 1e-9 relative with a margin.
    assert -slope.item() == pytest.approx(exact, rel=1e-9)
    assert vmf_mean_resultant_length(dim, kappa).item() == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("dim", "kappa"), DERIVATIVE_GRID)
def test_second_derivative_is_finite_and_follows_the_riccati_equation(dim, kappa):
    argument = torch.tensor(kappa, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(vmf_log_normalizer(dim, argument), argument, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, argument)
    # A' = 1 - A^2 - (d-1) A / kappa holds for every d; it cancels, hence mpmath.
    length, k = exact_mean_resultant_length(dim, kappa), mpmath.mpf(kappa)
    exact = 1 - length**2 - (dim - 1) * length / k
    assert math.isfinite(curvature.item())
    # For kappa >> d, A' ~ (d-1)/(2 kappa^2) is 1e-10 of terms of order 1: an absolute 1e-13 is
    # what float64 can promise there.
    assert -curvature.item() == pytest.approx(float(exact), rel=1e-6, abs=1e-13)


@pytest.mark.parametrize("dim", DIMS)
def test_kappa_zero_is_the_uniform_density(dim):
    kappa = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    log_normalizer = vmf_log_normalizer(dim, kappa)
    (slope,) = torch.autograd.grad(log_normalizer, kappa, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, kappa)
    assert log_normalizer.item() == pytest.approx(-float(exact_log_area(dim)), rel=1e-10)
    assert slope.item() == 0.0
    # A(kappa) = kappa/d + O(kappa^3)
    assert -curvature.item() == pytest.approx(1 / dim, rel=1e-9)
    assert vmf_mean_resultant_length(dim, 0.0).item() == 0.0
    assert vmf_entropy(dim, 0.0).item() == pytest.approx(float(exact_log_area(dim)), rel=1e-10)


def test_log_normalizer_keeps_the_shape_and_dtype_of_a_tensor():
    kappa = torch.tensor([[0.5, 10.0, 1e4]], dtype=torch.float32)
    computed = vmf_log_normalizer(64, kappa)
    assert computed.dtype == torch.float32
    exact = [[float(exact_log_normalizer(64, k)) for k in (0.5, 10.0, 1e4)]]
    # computed in float64 and rounded once: half an ulp of float32 is 6e-8 relative
    np.testing.assert_allclose(computed.numpy(), exact, rtol=1.2e-7)


@pytest.mark.parametrize("function", [vmf_log_normalizer, vmf_mean_resultant_length, vmf_entropy])
def test_an_integer_tensor_of_kappa_is_not_rounded_to_an_integer_result(function):
    assert function(3, torch.tensor(2)).item() == pytest.approx(function(3, 2.0).item(), rel=1e-6)


def test_the_vmf_density_integrates_to_one():
    # On S^{d-1} the cosine t with the mean has density area(S^{d-2}) (1-t^2)^{(d-3)/2}: an
    # integral that involves no Bessel function.
    for dim, kappa in ((3, 2.0), (8, 10.0), (64, 40.0)):
        angle = np.linspace(0, np.pi, 200_001)
        log_area_below = float(exact_log_area(dim - 1))
        log_normalizer = vmf_log_normalizer(dim, kappa).item()
        density = np.exp(log_normalizer + log_area_below + kappa * np.cos(angle)) * np.sin(
            angle
        ) ** (dim - 2)
        # smooth, with vanishing ends: the trapezoid rule converges far beyond 1e-9 here
        assert np.trapezoid(density, angle) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("dim", "area"), [(2, 2 * np.pi), (3, 4 * np.pi), (4, 2 * np.pi**2)])
def test_sphere_log_area_has_the_values_of_geometry(dim, area):
    assert sphere_log_area(dim) == pytest.approx(math.log(area), rel=1e-14)


@pytest.mark.parametrize("dim", DIMS)
def test_sphere_log_area_equals_mpmath_in_every_dimension(dim):
    assert sphere_log_area(dim) == pytest.approx(float(exact_log_area(dim)), rel=1e-12)


@pytest.mark.parametrize("dim", [3, 5, 8, 32, 64])
@pytest.mark.parametrize("kappa", [0.5, 5.0, 50.0, 500.0])
def test_vmf_entropy_equals_scipy(dim, kappa):
    mean = np.zeros(dim)
    mean[0] = 1.0
    exact = scipy.stats.vonmises_fisher(mean, kappa).entropy()
    # both in float64; scipy's own Bessel functions are good to about 1e-13
    assert vmf_entropy(dim, kappa).item() == pytest.approx(exact, rel=1e-9, abs=1e-9)


def test_vmf_entropy_falls_as_the_density_concentrates():
    entropy = vmf_entropy(128, torch.tensor([0.0, 1.0, 10.0, 100.0, 1e4], dtype=torch.float64))
    assert (entropy.diff() < 0).all()
    assert entropy[0].item() == pytest.approx(sphere_log_area(128), rel=1e-10)


def test_vmf_entropy_is_differentiable_in_kappa():
    # dH/dkappa = -kappa A'(kappa), with A' by the Riccati equation
    kappa = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(vmf_entropy(64, kappa), kappa)
    length = exact_mean_resultant_length(64, 20.0)
    exact = -20 * (1 - length**2 - 63 * length / 20)
    assert slope.item() == pytest.approx(float(exact), rel=1e-8)


def test_values_are_given_without_gradient_where_none_is_asked_for():
    with torch.no_grad():
        assert vmf_mean_resultant_length(3, 2.0).item() == pytest.approx(
            1 / math.tanh(2) - 1 / 2, rel=1e-12
        )
    assert not vmf_mean_resultant_length(3, 2.0).requires_grad


@pytest.mark.parametrize("function", [vmf_log_normalizer, vmf_mean_resultant_length, vmf_entropy])
def test_impossible_arguments_are_named(function):
    with pytest.raises(ValueError, match=r"needs dim of at least 2 but dim is 1\."):
        function(1, 1.0)
    with pytest.raises(ValueError, match=r"kappa must be at least 0 but is -0\.5\."):
        function(3, -0.5)


def test_the_area_of_a_sphere_in_one_dimension_is_refused():
    with pytest.raises(ValueError, match=r"needs dim of at least 2 but dim is 0\."):
        sphere_log_area(0)
