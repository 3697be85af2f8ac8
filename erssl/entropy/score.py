r"""The score (gradient of the log density) of embeddings, and the entropy gradient it gives.

MVEB (arXiv 2403.19078): :math:`\nabla H = -E[S(z) \nabla z]` with S the Stein
gradient estimator of Li & Turner (2018) under the vMF kernel :math:`\exp(z_i^\top z_j/\Delta)`.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from erssl.entropy._precision import full_precision
from erssl.entropy.ridge import auto_ridge

Geometry = Literal["euclidean", "sphere"]

BANDWIDTH_FLOOR = 0.1  # MVEB's reference code


@full_precision
@torch.no_grad()
def stein_score(
    z: Tensor,
    bandwidth: float | None = None,
    eta: float | Literal["auto"] = 0.01,
    geometry: Geometry = "euclidean",
    columns: slice | None = None,
) -> Tensor:
    r"""Score :math:`\nabla_z \log p(z)` at each embedding by a ridge-regularised Stein identity.

    With :math:`K_{ij} = \exp(z_i^\top z_j / \Delta)` the estimate is
    :math:`S = -(K + \eta I)^{-1} G`, where ``"euclidean"`` (MVEB) has
    :math:`G = \mathrm{diag}(K 1) Z / \Delta` and ``"sphere"`` (the divergence theorem on the
    closed sphere) :math:`G_i = \sum_m K_{im} [(z_i - (z_i^\top z_m) z_m)/\Delta - (d-1) z_m]`.
    Only the part of S tangential to the sphere matters to a loss that normalises its rows.

    Time O(N²d + N³/3), memory O(N² + Nd). The system is solved on the kernel scaled to
    k(z, z) = 1 by a Cholesky factorisation that does not raise, and in float64: on embeddings near
    collapse its condition number passes what float32 resolves, at any ridge of the papers.

    Args:
        z: Embeddings (N, d) with rows of unit norm.
        bandwidth: Bandwidth Δ of the kernel; ``None`` takes :func:`median_bandwidth`.
        eta: Ridge η on the un-normalised kernel (MVEB's reference code: 0.01), or ``"auto"`` for
            a ridge chosen by score matching on held-out rows (:func:`auto_ridge`).
        geometry: ``"euclidean"`` (the paper) or ``"sphere"``.
        columns: Dimensions to solve for, where others solve for the rest; ``None`` for all d.

    Returns:
        Detached tensor (N, d), or (N, number of columns), at least in float32.

    Raises:
        ValueError: If ``z`` is not a matrix, or ``bandwidth``, ``eta`` or ``geometry`` is none of
            the above.
    """
    _check_score_options(z, bandwidth, eta, geometry)
    dtype = z.dtype
    if z.device.type != "mps":  # which has no float64
        z = z.double()
    kernel = z @ z.T
    delta = median_bandwidth(z, kernel) if bandwidth is None else z.new_tensor(bandwidth)
    kernel.sub_(1).div_(delta).exp_()
    right_side = _stein_right_side(z, kernel, delta, geometry, columns or slice(None))
    ridge = auto_ridge(z, kernel, delta, geometry) if eta == "auto" else eta * (-1 / delta).exp()
    resolvable = len(z) * torch.finfo(z.dtype).eps
    kernel.diagonal().add_(ridge.clamp_min(resolvable))
    factor, _ = torch.linalg.cholesky_ex(kernel)
    del kernel, z  # the solve is where most memory is held
    return torch.cholesky_solve(right_side, factor).neg_().to(dtype)


def median_bandwidth(z: Tensor, similarities: Tensor | None = None) -> Tensor:
    """Median of the N² cosine distances 1 - z_i·z_j, the zero diagonal counted; at least 0.1.

    Source: MVEB's reference code. Of an even count the median is the lower of the middle two,
    as in :func:`torch.median`.

    Args:
        z: Embeddings (N, d) with rows of unit norm.
        similarities: Their Gram matrix (N, N), where it is already known.

    Returns:
        Scalar tensor.
    """
    if similarities is None:
        similarities = z @ z.T
    return (1 - similarities).median().clamp_min(BANDWIDTH_FLOOR)


@full_precision
def entropy_from_score(z: Tensor, score: Tensor) -> Tensor:
    r"""Surrogate :math:`-\frac1N \sum_i \langle S_i, z_i \rangle` whose gradient is that of H.

    Source: MVEB, :math:`\nabla H = -E[S(z) \nabla z]`. The value is not an entropy:
    to read one, use :func:`erssl.entropy.kde_entropy`.

    Args:
        z: Embeddings (N, d) that carry the gradient.
        score: Scores (N, d); no gradient flows into them.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: If the shapes differ.
    """
    if z.shape != score.shape:
        raise ValueError(
            f"Embeddings and scores must have one shape but have {tuple(z.shape)} "
            f"and {tuple(score.shape)}."
        )
    return -(score.detach() * z).sum(dim=-1).mean()


def _stein_right_side(
    z: Tensor, kernel: Tensor, delta: Tensor, geometry: Geometry, columns: slice
) -> Tensor:
    """Columns of G (N, d) of the ridge system (K + ηI) S = -G."""
    radial = kernel.sum(dim=1, keepdim=True) * z[:, columns] / delta
    if geometry == "euclidean":
        return radial
    # K_im (z_i·z_m) / delta = K_im (log K_im + 1 / delta), which is 0 where K_im underflows
    weights = torch.xlogy(kernel, kernel).addcmul_(kernel, 1 / delta + (z.shape[1] - 1))
    return torch.addmm(radial, weights, z[:, columns], alpha=-1)


def _check_score_options(
    z: Tensor, bandwidth: float | None, eta: float | str, geometry: str
) -> None:
    if z.ndim != 2 or len(z) < 1:
        raise ValueError(f"Embeddings must have shape (N, d) but have {tuple(z.shape)}.")
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"The bandwidth must be above 0 or None but is {bandwidth}.")
    if isinstance(eta, str) and eta != "auto":
        raise ValueError(f"eta must be a number or 'auto' but is {eta!r}.")
    if not isinstance(eta, str) and not eta >= 0:
        raise ValueError(f"eta must be at least 0 but is {eta}.")
    if geometry not in get_args(Geometry):
        raise ValueError(f"The geometry must be 'euclidean' or 'sphere' but is {geometry!r}.")
