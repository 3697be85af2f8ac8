r"""The Stein score of rows that are not normalised, by a Gaussian (RBF) kernel.

Li and Turner (2018, arXiv 1705.07107): with :math:`K_{ij} = \exp(-\|z_i - z_j\|^2 / 2\Delta)` the
estimate is :math:`S = -(K + \eta I)^{-1} G`, :math:`G_i = \sum_m \nabla_{z_m} k(z_i, z_m)
= \sum_m K_{im} (z_i - z_m) / \Delta`.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST = 1e-30  # least bandwidth: a division by it stays finite where one given is below it


def _half_distances(z: Tensor) -> Tensor:
    """Half squared distances (..., N, N) of rows (..., N, d), which of unit rows are 1 - cosine."""
    squares = z.square().sum(dim=-1)
    half = 0.5 * (squares[..., None] + squares[..., None, :]) - z @ z.mT
    half.diagonal(dim1=-2, dim2=-1).zero_()
    return half.clamp_min(0)


def rbf_score(
    z: Tensor, bandwidth: float | None, scale: float, eta: float, columns: slice
) -> Tensor:
    """Score (..., N, d) of rows, in float64 but on Apple's GPUs.

    Args:
        z: Rows (N, d), or a batch (V, N, d), of any length.
        bandwidth: Bandwidth Δ, in units of squared length; ``None`` for the median of the half
            squared distances of different rows, which of unit rows are cosine distances; copies of
            a row, whose distance is rounding, do not count.
        scale: Factor of the median.
        eta: Ridge on the kernel, whose diagonal is 1.
        columns: Dimensions to solve for.

    Returns:
        Tensor of the dtype of ``z``; NaN where a row is not finite.
    """
    rows = z if z.device.type == "mps" else z.double()
    rows = rows - rows.mean(dim=-2, keepdim=True)  # which no distance feels, but rounding does
    half = _half_distances(rows)
    if bandwidth is None:
        delta = scale * _median(half, rows)
    else:
        delta = half.new_full(half.shape[:-2], bandwidth)
    delta = delta.clamp_min(_SMALLEST)[..., None, None]
    kernel = (-half / delta).exp()
    own = rows[..., columns]
    right_side = (kernel.sum(dim=-1, keepdim=True) * own - kernel @ own) / delta
    n = z.shape[-2]
    ridge = max(eta, 100 * n * torch.finfo(kernel.dtype).eps)
    kernel.diagonal(dim1=-2, dim2=-1).add_(ridge)
    factor, _ = torch.linalg.cholesky_ex(kernel)
    score: Tensor = -torch.cholesky_solve(right_side, factor)
    return score.to(z.dtype).contiguous()  # LAPACK's own order is of columns


def _median(half: Tensor, rows: Tensor) -> Tensor:
    """Lower median over the pairs of rows that differ by more than rounding; 1 where none do."""
    n = half.shape[-1]
    if n < 2:
        return half.new_ones(half.shape[:-2])
    first, second = torch.triu_indices(n, n, offset=1, device=half.device)
    pairs = half[..., first, second]
    largest = rows.square().sum(dim=-1).amax(dim=-1, keepdim=True)
    rounding = 100 * torch.finfo(half.dtype).eps * largest
    median = torch.where(pairs > rounding, pairs, torch.nan).nanmedian(dim=-1).values
    return torch.where(rows.isfinite().all(dim=(-2, -1)), median.nan_to_num(nan=1.0), torch.nan)
