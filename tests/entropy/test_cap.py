"""Areas of caps against mpmath's integral, scipy's incomplete beta and closed forms."""

import math

import mpmath
import pytest
import torch
from scipy.special import betainc, betaincc

from erssl.entropy import cap_log_area, sphere_log_area

ANGLES = (1e-9, 1e-3, 0.1, 0.7, 1.2, 1.5, 1.56, math.pi / 2, 1.58, 1.7, 2.5, 3.1)


def log_area_by_quadrature(dim, angle):
    """log of |S^{d-2}| times the integral of sin^{d-2}, scaled by its largest value."""
    with mpmath.workdps(30):
        peak = min(mpmath.mpf(angle), mpmath.pi / 2)
        width = min(peak, 40 / mpmath.sqrt(dim))
        if angle < mpmath.pi / 2:  # the integrand falls off like exp((d-2) cot(angle) (t - angle))
            width = min(width, 80 * mpmath.tan(peak) / max(dim - 2, 1))
        knots = [max(0, peak - width * f) for f in (1, 0.5, 0.25, 0.1, 0.03, 0)]
        knots += [min(mpmath.mpf(angle), peak + width * f) for f in (0.1, 0.25, 0.5, 1)]
        knots = sorted({*knots, min(mpmath.mpf(angle), peak + width)})
        total = mpmath.quad(lambda t: (mpmath.sin(t) / mpmath.sin(peak)) ** (dim - 2), knots)
        log_circle = mpmath.log(2) + (dim - 1) / mpmath.mpf(2) * mpmath.log(mpmath.pi)
        log_circle -= mpmath.loggamma((dim - 1) / mpmath.mpf(2))
        return float(log_circle + mpmath.log(total) + (dim - 2) * mpmath.log(mpmath.sin(peak)))


@pytest.mark.parametrize("dim", [2, 3, 8, 33, 128, 2048, 65536])
def test_log_areas_equal_an_integral_of_thirty_digits(dim):
    switch = math.acos(min(1.0, math.sqrt(3 / (dim + 4))))  # between two ways to compute it
    angles = torch.tensor([*ANGLES, switch - 1e-3, switch, switch + 1e-3], dtype=torch.float64)
    for angle, value in zip(angles.tolist(), cap_log_area(dim, angles).tolist(), strict=True):
        # 1e-12 of the value: at d = 65,536 lgamma(d/2) alone is 3e5, of float64's 16 digits
        expected = log_area_by_quadrature(dim, angle)
        assert value == pytest.approx(expected, rel=2e-12, abs=1e-12), angle


@pytest.mark.parametrize("dim", [2, 5, 40, 300])
def test_areas_equal_scipys_incomplete_beta_where_it_does_not_underflow(dim):
    for angle in (0.9, 1.4, 1.57, 1.9, 2.8):
        half = 0.5 * betainc((dim - 1) / 2, 0.5, math.sin(angle) ** 2)
        if abs(math.cos(angle)) < 0.1:
            half = 0.5 * betaincc(0.5, (dim - 1) / 2, math.cos(angle) ** 2)
        share = half if angle < math.pi / 2 else 1 - half
        log_share = float(cap_log_area(dim, torch.tensor(angle, dtype=torch.float64)))
        assert log_share - sphere_log_area(dim) == pytest.approx(math.log(share), rel=1e-10)


def test_closed_forms_on_the_circle_and_the_sphere():
    angles = torch.linspace(0, math.pi, 50, dtype=torch.float64)
    torch.testing.assert_close(cap_log_area(2, angles).exp(), 2 * angles)
    torch.testing.assert_close(cap_log_area(3, angles).exp(), 2 * math.pi * (1 - angles.cos()))
    assert cap_log_area(9, angles)[0] == -math.inf
    assert cap_log_area(9, angles)[-1] == pytest.approx(sphere_log_area(9))


def test_the_gradient_equals_finite_differences():
    angles = torch.tensor([0.2, 1.0, 1.55, 1.6, 2.9], dtype=torch.float64, requires_grad=True)
    for dim in (2, 3, 50):
        assert torch.autograd.gradcheck(lambda a, d=dim: cap_log_area(d, a), angles)
        assert torch.autograd.gradgradcheck(lambda a, d=dim: cap_log_area(d, a), angles)


def test_the_third_derivative_is_that_of_the_closed_form():
    angle = torch.tensor(0.8, dtype=torch.float64)
    third = torch.func.grad(torch.func.grad(torch.func.grad(lambda a: cap_log_area(3, a))))(angle)
    half = 0.5 * float(angle)  # log(1 - cos a) has the slope cot(a / 2)
    assert float(third) == pytest.approx(0.5 * math.cos(half) / math.sin(half) ** 3)


def test_a_dimension_below_two_is_refused():
    with pytest.raises(ValueError, match="dim of at least 2 but dim is 1"):
        cap_log_area(1, torch.tensor(0.5))


def test_the_whole_circle_has_its_length_and_its_slope():
    """Float32's pi lies above pi, where the sine is negative."""
    angle = torch.tensor(math.pi, requires_grad=True)
    area = cap_log_area(2, angle)
    area.backward()
    assert float(area) == pytest.approx(math.log(2 * math.pi))
    assert float(angle.grad) == pytest.approx(1 / math.pi)
