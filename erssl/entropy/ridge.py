r"""A data-driven ridge for the score estimate, by score matching on held-out rows.

The estimate :math:`S = -(K + \eta I)^{-1} G` extends to any point b of the sphere as
:math:`s(b) = -\frac1\sigma \sum_a [k(b, a) s_a + g(b, a)]`. Score matching (Hyvärinen 2005) on
the sphere, :math:`J(\eta) = \sum_b [\frac12 \|s_T(b)\|^2 + \mathrm{div}_T s(b)]`, falls with the
squared error of the tangential score up to a constant, without knowing the density.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 1024  # of each half; bounds the time at large N, see docs/score.md
_RATIO, _LOWEST, _HIGHEST = 3.0, -7, 5  # candidates √m · 3^j


@torch.no_grad()
def auto_ridge(z: Tensor, delta: Tensor, geometry: str) -> Tensor:
    """Ridge η on the kernel scaled to k(z, z) = 1 that predicts held-out rows best.

    Even rows fit, odd rows judge, at most 1024 of each; the choice among 13 candidates is refined
    by a parabola and carried from half the rows to all by the square root of their number.

    Args:
        z: Embeddings (N, d) with rows of unit norm, in no particular order, or a batch (V, N, d).
        delta: Bandwidth, or one for each of the V.
        geometry: ``"euclidean"`` or ``"sphere"``.

    Returns:
        Scalar tensor, or one of V values.
    """
    if z.ndim > 2:
        return torch.stack([auto_ridge(*one, geometry) for one in zip(z, delta, strict=True)])
    dtype = z.dtype
    if z.device.type != "mps":  # which has no float64
        z, delta = z.double(), delta.double()
    n, d = z.shape
    stride = 2 * max(1, -(-n // (2 * _ROWS)))
    a, b = z[0::stride], z[1::stride]
    m = len(a)
    cosines = b @ a.T
    kernel_aa, kernel_ba = ((a @ a.T - 1) / delta).exp(), ((cosines - 1) / delta).exp()
    # G of the rows a, the part of Σ_a g(b, a) beside the radial one, and the divergence that does
    # not depend on s.
    right_side = kernel_aa.sum(dim=1, keepdim=True) * a / delta
    shift: Tensor | float = 0.0
    divergence: Tensor | float = 0.0
    if geometry == "sphere":
        right_side = right_side - (kernel_aa * ((a @ a.T) / delta + (d - 1))) @ a
        shift = -(kernel_ba * (cosines / delta + (d - 1))) @ a
        sine_squared = 1 - cosines.square()
        divergence = kernel_ba * (
            (d - 1) * (1 / delta + (d - 1) * cosines - 2 * sine_squared / delta)
            - sine_squared * (1 + cosines / delta) / delta
        )
        divergence = divergence.sum()
    # Σ_b div_T [k(b, a) s_a] = <gradient_a, s_a>
    gradient = kernel_ba.sum(dim=0)[:, None] * a / delta
    gradient = gradient - (kernel_ba * (cosines / delta + (d - 1))).T @ b

    identity = torch.eye(m, device=z.device, dtype=z.dtype)
    exponents = torch.arange(_LOWEST, _HIGHEST + 1, device=z.device, dtype=z.dtype)
    losses = []
    for eta in (m**0.5 * _RATIO**exponents).unbind():
        factor, _ = torch.linalg.cholesky_ex(kernel_aa + eta * identity)
        s = -torch.cholesky_solve(right_side, factor)
        field = kernel_ba @ s + shift
        field = field - (field * b).sum(dim=1, keepdim=True) * b
        # A row of the sample meets its own k(z, z) = 1, which shrinks it by η/σ against a row
        # outside; σ = m / tr (K + ηI)^-1 in place of η judges the field that is really used.
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        sigma = m / inverse.square().sum()
        losses.append(
            (field / sigma).square().sum() / 2 - ((gradient * s).sum() + divergence) / sigma
        )
    loss = torch.nan_to_num(torch.stack(losses), nan=torch.inf, posinf=torch.inf)
    best = loss.argmin().clamp(1, len(loss) - 2)
    left, middle, right = loss[best - 1], loss[best], loss[best + 1]
    curvature = (left - 2 * middle + right).clamp_min(torch.finfo(z.dtype).tiny)
    move = torch.nan_to_num((left - right) / (2 * curvature)).clamp(-1, 1)
    ridge: Tensor = m**0.5 * _RATIO ** (_LOWEST + best + move) * (n / m) ** 0.5
    return ridge.to(dtype)
