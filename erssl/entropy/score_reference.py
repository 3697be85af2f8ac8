r"""The score by its formula, :math:`S = -(K + \eta I)^{-1} (G - \eta S_0)`, and nothing else.

:func:`erssl.entropy.stein_score` computes the same numbers faster, in less memory, and where this
fails: it is what that function is tested against.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reference_score(
    z: Tensor, bandwidth: float, eta: float, geometry: str = "euclidean", shrink_to: str = "zero"
) -> Tensor:
    """Score of each row in float64, with dense matrices.

    Args:
        z: Embeddings (N, d) with rows of unit norm.
        bandwidth: Bandwidth Δ of the kernel exp(z_i·z_j / Δ).
        eta: Ridge η on that kernel.
        geometry: ``"euclidean"`` or ``"sphere"``, see :func:`erssl.entropy.stein_score`.
        shrink_to: ``"zero"`` or ``"vmf"``, see there.

    Returns:
        Scores (N, d), tangential and radial part.
    """
    z = z.double()
    n, d = z.shape
    cosines = z @ z.T
    kernel = (cosines / bandwidth).exp()
    right_side = kernel.sum(dim=1, keepdim=True) * z / bandwidth
    if geometry == "sphere":
        right_side = right_side - (kernel * (cosines / bandwidth + d - 1)) @ z
    start = torch.zeros_like(z) if shrink_to == "zero" else vmf_score(z)
    identity = torch.eye(n, dtype=z.dtype, device=z.device)
    score: Tensor = -torch.linalg.solve(kernel + eta * identity, right_side - eta * start)
    return score


def vmf_score(z: Tensor) -> Tensor:
    """Score κ(μ - (μ·z) z) of the von Mises-Fisher density that fits two or more rows (N, d).

    By score matching along their mean m, whose squared length is 1/N too large.
    """
    n, d = z.shape
    mean = z.mean(dim=0)
    squared = mean.square().sum()
    shrunk = ((squared - 1 / n) / (1 - 1 / n) / squared).clamp(0, 1)
    spread = (1 - (z @ mean).square() / squared).mean()
    kappa_mu = shrunk * (d - 1) * mean / spread
    return kappa_mu - (z @ kappa_mu)[:, None] * z
