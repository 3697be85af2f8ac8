"""Entropy of a Gaussian of the embeddings' covariance, and its kin, the coding rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from erssl.entropy._opaque import is_followed
from erssl.entropy._shapes import check_matrix
from erssl.entropy.precision import full_precision, product


@full_precision
def gaussian_entropy(z: Tensor, noise: float = 0.0) -> Tensor:
    r"""Entropy of a Gaussian of the rows' covariance, in nats.

    .. math:: \tfrac12 \log\det\big(2\pi e\,(\Sigma + \nu I)\big), \quad
              \Sigma = \tfrac1N \sum_i (z_i - \bar z)(z_i - \bar z)^\top

    Among all densities on ℝ^d of one covariance the Gaussian has the highest entropy (Cover and
    Thomas, theorem 8.6.5), so with the true covariance this is an upper bound of the entropy of
    any density on ℝ^d. With that of N rows it is an estimate, too low by about d²/4N for N well
    above d, and -inf for N <= d unless ``noise`` says how far to look (CorInfoMax,
    arXiv 2209.07999, has such a term). Rows on the sphere have no density on ℝ^d; for them it is
    an estimate alone, near the truth where √d z is nearly Gaussian. In float64 inside, but on
    Apple's GPUs.

    Args:
        z: Embeddings (N, d) of any norm.
        noise: Variance ν that is added to every dimension, at least 0.

    Returns:
        Scalar tensor, at least in float32; -inf where rounding leaves the covariance no full rank,
        with a gradient of 0.

    Raises:
        ValueError: If ``z`` is not a matrix or ``noise`` negative.

    Examples:
        >>> z = torch.randn(4096, 2, generator=torch.Generator().manual_seed(0))
        >>> round(gaussian_entropy(z).item(), 1)  # log 2πe = 2.84
        2.8
    """
    check_matrix(z)
    if not noise >= 0:
        raise ValueError(f"The noise must be a variance of at least 0 but is {noise}.")
    n, dim = z.shape
    rows = z if z.device.type == "mps" else z.double()
    centred = rows - rows.mean(dim=0)
    constant = 0.5 * dim * math.log(2 * math.pi * math.e)
    if noise > 0:
        rate = 0.5 * _log_det_plus_identity(centred / math.sqrt(n * noise))
        return (rate + constant + 0.5 * dim * math.log(noise)).to(z)
    if n <= dim:  # N centred rows span N - 1 dimensions at most
        total = z.sum()  # of the rows, with a gradient of 0
        return total.masked_fill(torch.ones_like(total, dtype=torch.bool), -math.inf)
    return (0.5 * log_det(product(centred.T, centred) / n) + constant).to(z)


@full_precision
def coding_rate(z: Tensor, distortion: float = 0.5) -> Tensor:
    r"""Coding rate :math:`\tfrac12 \log\det(I + \tfrac{d}{N \epsilon^2} Z^\top Z)`, in nats.

    Source: MCR² (Yu et al. 2020, arXiv 2006.08558), equation 1; SimDINO (arXiv 2502.10385) and
    EMP-SSL (arXiv 2304.03977) maximise it. Up to a constant it is the entropy of a Gaussian of
    the rows' uncentred covariance that is seen through noise of variance ε²/d: no bound of the
    entropy of the rows, but finite for any of them, 0 at the origin and, of unit rows, at most
    d/2 log(1 + 1/ε²).

    Args:
        z: Embeddings (N, d).
        distortion: The square ε², above 0; 0.5 in SimDINO's code, 0.2 in EMP-SSL's.

    Returns:
        Scalar tensor, at least in float32.

    Raises:
        ValueError: If ``z`` is not a matrix or ``distortion`` not above 0.

    Examples:
        >>> round(coding_rate(torch.eye(2), 0.5).item(), 4), round(math.log(3), 4)
        (1.0986, 1.0986)
    """
    check_matrix(z)
    if not distortion > 0:
        raise ValueError(f"The distortion must be above 0 but is {distortion}.")
    n, dim = z.shape
    return 0.5 * _log_det_plus_identity(z * math.sqrt(dim / (n * distortion)))


@full_precision
def coding_series(z0: Tensor, z1: Tensor, distortion: float, order: int = 4) -> Tensor:
    r"""First terms of :math:`\log\det(I + C)`, :math:`C = \tfrac{d}{N\epsilon^2} Z_0^\top Z_1`.

    .. math:: \sum_{k=1}^{K} \frac{(-1)^{k+1}}{k} \mathrm{tr}\, C^k

    Source: MEC (arXiv 2210.11464), equation 4, with its K = 4; Matrix-SSL (arXiv 2305.17326) takes
    the same series of a cross-covariance. With one view on both sides it tends to twice the
    :func:`coding_rate` as K grows, where the spectral radius of C is below 1; beyond, it is no
    approximation. Between two views it rewards agreement and spread at once.

    Args:
        z0: Embeddings (N, d).
        z1: Embeddings (N, d) of the same images.
        distortion: The square ε², above 0.
        order: The number K of terms, at least 1.

    Returns:
        Scalar tensor, at least in float32, of either sign.

    Raises:
        ValueError: If shapes differ, or ``distortion`` or ``order`` is out of range.

    Examples:
        >>> z = torch.eye(2) / 10
        >>> torch.isclose(coding_series(z, z, 1.0), 2 * coding_rate(z, 1.0), atol=1e-6).item()
        True
    """
    check_matrix(z0)
    if z0.shape != z1.shape or z0.dtype != z1.dtype:
        raise ValueError(
            "Both views must have one shape (N, d) and precision but have "
            f"{tuple(z0.shape)}, {z0.dtype} and {tuple(z1.shape)}, {z1.dtype}."
        )
    if not distortion > 0 or order < 1:
        raise ValueError(
            f"A coding series needs a distortion above 0 and an order of at least 1 but has "
            f"{distortion} and {order}."
        )
    n, dim = z0.shape
    scale = dim / (n * distortion)
    # tr(AB)^k = tr(BA)^k: on the smaller side
    first = scale * (product(z0, z1.T) if n < dim else product(z0.T, z1))
    powers = [first]  # up to half the order: the trace of a product needs no product
    while 2 * len(powers) < order:
        powers.append(product(powers[-1], first))
    series = first.diagonal().sum()
    for k in range(2, order + 1):
        a, b = powers[(k + 1) // 2 - 1], powers[k // 2 - 1]
        series = series + (-1) ** (k + 1) / k * (a * b.T).sum()
    return series


class _LogDetPlusIdentity(torch.autograd.Function):
    """Log determinant of I + xᵀx, on the smaller side of x (N, d), by one Cholesky.

    Its gradient, 2 x (I + xᵀx)⁻¹, takes the same factor: autograd's own of a Cholesky takes
    several products and solves more.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gram = _gram_plus_identity(x)
        value, factor = _log_det_and_factor(gram)
        ctx.save_for_backward(x, factor)
        return value

    @staticmethod
    @full_precision
    def backward(ctx: Any, of_value: Tensor) -> Tensor:
        x, factor = ctx.saved_tensors
        tall = len(x) >= x.shape[1]
        if torch.is_grad_enabled():  # a second derivative follows
            solved = torch.linalg.solve(_gram_plus_identity(x), x.T if tall else x)
        else:
            solved = torch.cholesky_solve(x.T if tall else x, factor)
        gradient: Tensor = 2 * of_value * (solved.T if tall else solved)
        return gradient


class _LogDet(torch.autograd.Function):
    """Log determinant of a positive definite matrix, whose gradient is its inverse."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        value, factor = _log_det_and_factor(matrix)
        ctx.save_for_backward(matrix, factor, value)
        return value

    @staticmethod
    @full_precision
    def backward(ctx: Any, of_value: Tensor) -> Tensor:
        matrix, factor, value = ctx.saved_tensors
        regular = value > -math.inf  # which NaN is not
        without = torch.where(value.isnan(), math.nan, 0.0).to(value)
        unit = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        if torch.is_grad_enabled():  # a second derivative follows
            inverse = torch.linalg.inv(torch.where(regular, matrix, unit))
        else:
            inverse = torch.cholesky_inverse(torch.where(regular, factor, unit))
        gradient: Tensor = of_value * torch.where(regular, inverse, without)
        return gradient


def log_det(matrix: Tensor) -> Tensor:
    """Log determinant of a symmetric matrix (d, d); -inf where it is not positive definite."""
    if is_followed():
        return _log_det_and_factor(matrix)[0]
    value: Tensor = _LogDet.apply(matrix)
    return value


def _log_det_plus_identity(x: Tensor) -> Tensor:
    if is_followed():
        return _log_det_and_factor(_gram_plus_identity(x))[0]
    value: Tensor = _LogDetPlusIdentity.apply(x)
    return value


def _gram_plus_identity(x: Tensor) -> Tensor:
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    return gram + torch.eye(len(gram), dtype=x.dtype, device=x.device)


def _log_det_and_factor(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """-inf where there is no factor, NaN where the matrix is not finite; no look at the values."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    value = 2 * factor.diagonal().log().sum()
    lost = torch.where(matrix.isfinite().all(), -math.inf, math.nan).to(value)
    return torch.where(failed > 0, lost, value), factor
