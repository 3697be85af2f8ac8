r"""Areas of caps of the unit sphere S^{d-1}, in logs, exact in every dimension.

.. math:: \frac{|\mathrm{cap}(\theta)|}{|S^{d-1}|} = \tfrac12 I_{\sin^2\theta}(a, \tfrac12), \quad
          a = \tfrac{d-1}2, \quad \theta \le \tfrac\pi2

with :math:`I_x` the regularised incomplete beta function, here from its continued fraction
(DLMF 8.17.22), whose value is of order 1 while the power in front of it is kept as a logarithm.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from erssl.entropy.vmf import sphere_log_area

_STEPS = 64  # of the continued fraction, to float64's precision at every d up to 65,536
_STEPS_OF_COMPLEMENT = 16  # whose terms fall faster


def cap_log_area(dim: int, angle: Tensor) -> Tensor:
    """Log area of a cap of the sphere S^{d-1}, all points within ``angle`` of its centre.

    Source: Li (2011), Concise formulas for the area and volume of a hyperspherical cap.

    Args:
        dim: Dimension d of the space that holds the sphere S^{d-1}; at least 2.
        angle: Angles in [0, π] of any shape, in radians.

    Returns:
        Float64 tensor of the shape of ``angle`` (on the CPU where a device has no float64),
        differentiable any number of times; -inf at angle 0, and :func:`sphere_log_area` at π.

    Raises:
        ValueError: If ``dim`` is below 2.

    Examples:
        >>> half = cap_log_area(3, torch.tensor(math.pi / 2))  # 2π of the 4π
        >>> round(half.exp().item() / math.pi, 6)
        2.0
    """
    log_area = sphere_log_area(dim)  # which checks dim
    angle = (angle.cpu() if angle.device.type == "mps" else angle).double()
    log_share: Tensor = _LogShare.apply(angle, dim)
    return log_share + log_area


class _LogShare(torch.autograd.Function):
    """Whose gradient is in closed form, of the function itself, for derivatives of every order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(angle: Tensor, dim: int) -> Tensor:
        return _log_share(dim, angle)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        angle, ctx.dim = inputs
        ctx.save_for_backward(angle, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        angle, log_share = ctx.saved_tensors
        if torch.is_grad_enabled():
            log_share = _LogShare.apply(angle, ctx.dim)
        return gradient * _slope(ctx.dim, angle, log_share), None


def _log_share(dim: int, angle: Tensor) -> Tensor:
    """Log of the share of the sphere that the cap covers."""
    a = 0.5 * (dim - 1)
    nearer = torch.minimum(angle, math.pi - angle).clamp_min(0)  # the cap, or what it leaves
    sine, cosine = nearer.sin(), nearer.cos()
    # x^a (1-x)^(1/2) / B(a, 1/2), with x the squared sine
    log_front = 2 * a * sine.log() + cosine.log() - _log_beta(a)
    border = (a + 1) / (a + 2.5)  # beyond it the complement's fraction is the quick one
    x, y = sine.square(), cosine.square()
    near_pole = log_front - math.log(a) + _fraction(a, 0.5, x.clamp_max(border), _STEPS).log()
    complement = _fraction(0.5, a, y.clamp_max(1 - border), _STEPS_OF_COMPLEMENT)
    beyond = (log_front + math.log(2)).exp() * complement
    near_equator = torch.log1p(-beyond.clamp_max(1))
    log_half = torch.where(x <= border, near_pole, near_equator) - math.log(2)
    return torch.where(angle > math.pi / 2, torch.log1p(-log_half.exp()), log_half)


def _slope(dim: int, angle: Tensor, log_share: Tensor) -> Tensor:
    """Derivative of the log share in the angle; 0 where there is none, at angle 0."""
    positive = angle > 0
    angle, log_share = (torch.where(positive, x, 1.0) for x in (angle, log_share))
    log_slope = -_log_beta(0.5 * (dim - 1)) - log_share
    if dim > 2:
        log_slope = log_slope + (dim - 2) * angle.sin().clamp_min(0).log()
    return torch.where(positive, log_slope.exp(), 0.0)


def _log_beta(a: float) -> float:
    """Log of the beta function B(a, 1/2)."""
    return math.lgamma(a) + math.lgamma(0.5) - math.lgamma(a + 0.5)


def _fraction(a: float, b: float, x: Tensor, steps: int) -> Tensor:
    """The continued fraction of I_x(a, b), by Lentz's method, for x <= (a + 1) / (a + b + 2)."""
    c = torch.ones_like(x)
    d = 1 / (1 - (a + b) * x / (a + 1))
    value = d.clone()
    for m in range(1, steps + 1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            value = value * d * c
    return value
