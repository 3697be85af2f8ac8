r"""The von Mises-Fisher (vMF) density on the unit sphere S^{d-1}, exact in every dimension.

.. math:: p(z) = C_d(\kappa) \exp(\kappa \, \mu^\top z), \qquad
          \log C_d(\kappa) = \nu \log\kappa - \tfrac d2 \log 2\pi - \log I_\nu(\kappa), \quad
          \nu = \tfrac d2 - 1

All values are in nats. Everything is computed in float64 from the one function
:math:`g_\nu(\kappa) = \log(I_\nu(\kappa) / \kappa^\nu)`, which stays finite at
:math:`\kappa = 0`, so that nothing overflows, underflows or cancels.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

# Debye's expansion is used at this order or above, where twelve terms reach float64 precision.
_DEBYE_ORDER = 32.0
_DEBYE_TERMS = 12


def vmf_log_normalizer(dim: int, kappa: float | Tensor) -> Tensor:
    r"""Log normaliser :math:`\log C_d(\kappa)` of the vMF density, in nats.

    Source: ER paper (arXiv 2307.10907); differentiable in ``kappa`` with
    :math:`\partial \log C_d / \partial\kappa = -A_d(\kappa)`, minus the mean resultant length.

    Args:
        dim: Dimension d of the space that holds the sphere S^{d-1}; at least 2.
        kappa: Concentration, a number or a tensor of any shape; at least 0.

    Returns:
        Tensor of the shape of ``kappa``; in the tensor's dtype, in float64 for
        numbers and integers.

    Raises:
        ValueError: If ``dim`` is below 2 or ``kappa`` is a negative number.

    Examples:
        >>> round(vmf_log_normalizer(3, 1e-9).exp().item() * 4 * math.pi, 6)
        1.0
    """
    kappa, dtype = _as_float64(dim, kappa)
    log_normalizer = -0.5 * dim * math.log(2 * math.pi) - _log_bessel_ratio(dim / 2 - 1, kappa)
    return log_normalizer.to(dtype)


@cache
def log_normalizer_value(dim: int, kappa: float) -> float:
    """:func:`vmf_log_normalizer` as a number, kept: losses ask for the same one every step."""
    return float(vmf_log_normalizer(dim, kappa))


def vmf_mean_resultant_length(dim: int, kappa: float | Tensor) -> Tensor:
    r"""Mean resultant length :math:`A_d(\kappa) = I_{d/2}(\kappa) / I_{d/2-1}(\kappa)`.

    This is the expected cosine :math:`E[\mu^\top z]` of a vMF sample with its mean direction.

    Args:
        dim: Dimension d of the space that holds the sphere S^{d-1}; at least 2.
        kappa: Concentration, a number or a tensor of any shape; at least 0.

    Returns:
        Tensor of the shape of ``kappa`` with values in [0, 1).

    Raises:
        ValueError: If ``dim`` is below 2 or ``kappa`` is a negative number.
    """
    kappa, dtype = _as_float64(dim, kappa)
    with torch.enable_grad():
        differentiable = kappa.requires_grad
        argument = kappa if differentiable else kappa.detach().requires_grad_()
        log_normalizer = vmf_log_normalizer(dim, argument).sum()
        (slope,) = torch.autograd.grad(log_normalizer, argument, create_graph=differentiable)
    return (-slope).to(dtype)


def vmf_entropy(dim: int, kappa: float | Tensor) -> Tensor:
    r"""Differential entropy :math:`-\log C_d(\kappa) - \kappa A_d(\kappa)` of a vMF, in nats.

    Its largest value, at ``kappa = 0``, is :func:`sphere_log_area`.

    Args:
        dim: Dimension d of the space that holds the sphere S^{d-1}; at least 2.
        kappa: Concentration, a number or a tensor of any shape; at least 0.

    Returns:
        Tensor of the shape of ``kappa``.

    Raises:
        ValueError: If ``dim`` is below 2 or ``kappa`` is a negative number.
    """
    kappa, dtype = _as_float64(dim, kappa)
    entropy = -vmf_log_normalizer(dim, kappa) - kappa * vmf_mean_resultant_length(dim, kappa)
    return entropy.to(dtype)


def sphere_log_area(dim: int) -> float:
    r"""Log surface area :math:`\log(2 \pi^{d/2} / \Gamma(d/2))` of S^{d-1}, in nats.

    It is the entropy of the uniform distribution, the ceiling of every entropy on the sphere.

    Args:
        dim: Dimension d of the space that holds the sphere S^{d-1}; at least 2.

    Returns:
        The log area.

    Raises:
        ValueError: If ``dim`` is below 2.

    Examples:
        >>> round(math.exp(sphere_log_area(3)) / math.pi, 6)
        4.0
    """
    _check_dim(dim)
    return math.log(2) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)


def _log_bessel_ratio(order: float, kappa: Tensor) -> Tensor:
    r"""g = log(I_order(kappa) / kappa^order) for float64 ``kappa`` of any shape.

    Low orders step down from :data:`_DEBYE_ORDER` with the ratio
    rho_n = I_{n+1} / (kappa I_n) = 1 / (2(n + 1) + kappa^2 rho_{n+1}), a recurrence that damps
    its own errors; g_n = g_{n+1} - log rho_n.
    """
    steps = max(0, math.ceil(_DEBYE_ORDER - order))
    top = order + steps
    log_ratio = _debye(top, kappa)
    if steps == 0:
        return log_ratio
    rho = torch.exp(_debye(top + 1, kappa) - log_ratio)
    for step in range(steps, 0, -1):
        rho = 1 / (2 * (order + step) + kappa.square() * rho)
        log_ratio = log_ratio - rho.log()
    return log_ratio


def _debye(order: float, kappa: Tensor) -> Tensor:
    """The uniform asymptotic expansion of g (DLMF 10.41.3), for large ``order``."""
    root = torch.sqrt(kappa.square() + order**2)
    p_squared = (order / root).square()
    series = torch.ones_like(kappa)
    for k in range(_DEBYE_TERMS - 1, 0, -1):
        # U_k(p) / order^k = (p / order)^k V_k(p^2) = root^-k V_k(p^2)
        series = series + _polyval(_debye_polynomial(k), p_squared) / root**k
    return (
        root
        - order * torch.log(order + root)
        - 0.5 * math.log(2 * math.pi)
        - 0.5 * root.log()
        + series.log()
    )


@cache
def _debye_polynomial(k: int) -> tuple[float, ...]:
    """Coefficients in p^2 of V_k = U_k(p) / p^k, by the recurrence DLMF 10.41.9."""
    u = np.polynomial.Polynomial([1.0])
    p = np.polynomial.Polynomial([0.0, 1.0])
    for _ in range(k):
        u = 0.5 * p**2 * (1 - p**2) * u.deriv() + ((1 - 5 * p**2) * u).integ() / 8
    return tuple(float(c) for c in u.coef[k::2])


def _polyval(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = torch.zeros_like(x)
    for coefficient in reversed(coefficients):
        value = value * x + coefficient
    return value


def _as_float64(dim: int, kappa: float | Tensor) -> tuple[Tensor, torch.dtype]:
    _check_dim(dim)
    if isinstance(kappa, Tensor):
        return kappa.double(), kappa.dtype if kappa.is_floating_point() else torch.float64
    if not kappa >= 0:
        raise ValueError(f"The concentration kappa must be at least 0 but is {kappa}.")
    return torch.tensor(kappa, dtype=torch.float64), torch.float64


def _check_dim(dim: int) -> None:
    if dim < 2:
        raise ValueError(f"The sphere S^(dim-1) needs dim of at least 2 but dim is {dim}.")
