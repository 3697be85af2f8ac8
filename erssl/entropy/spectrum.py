"""What the spectrum of embeddings says of a backbone without labels: LiDAR and α-ReQ.

RankMe, the third of their kind, is :func:`erssl.entropy.effective_rank`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from erssl.entropy.geometry import perplexity
from erssl.entropy.precision import full_precision


@full_precision
def lidar(z: Tensor, delta: float = 1e-4, eps: float = 1e-7) -> Tensor:
    r"""Effective rank of the LDA matrix of which each image is a class and its views the samples.

    .. math:: \Sigma_w = \frac1{nq} \sum_{i,j} (z_{ij} - \mu_i)(z_{ij} - \mu_i)^\top + \delta I,
              \quad \Sigma_b = \frac1n \sum_i (\mu_i - \mu)(\mu_i - \mu)^\top

    with :math:`\mu_i` the mean of an image's views and :math:`\mu` that of all. The value is
    :math:`\exp(-\sum_k p_k \log p_k)`, p the shares of the eigenvalues of
    :math:`\Sigma_w^{-1/2} \Sigma_b \Sigma_w^{-1/2}`, with eps added.

    Source: Thilak et al. (2024, arXiv 2312.04000), who take q = 50 or 10 views of 1,000 images and
    δ = 1e-4; eps is RankMe's. With fewer views, two at least, the spread within an image is known
    less well.

    Args:
        z: Embeddings (n, q, d) of q views of n images.
        delta: Ridge δ on the spread within images; of long embeddings at least 10 d eps times its
            largest variance (ours; eps of the precision of the computation), below which it would
            be lost to rounding where d > n (q - 1) leaves that spread singular.
        eps: Added to the shares, for a finite logarithm.

    Returns:
        Scalar tensor between 1 and about min(n - 1, d), computed in float64; 1 where all images
        are one point, NaN where an embedding is not finite.

    Raises:
        ValueError: If ``z`` has another shape, or fewer than two images or views.

    Examples:
        >>> images = torch.cat([torch.eye(3), -torch.eye(3)])  # alike in three directions
        >>> round(lidar(torch.stack([images, images], dim=1)).item(), 3)
        3.0
    """
    if z.ndim != 3 or len(z) < 2 or z.shape[1] < 2:
        raise ValueError(
            "LiDAR needs embeddings (n, q, d) of at least two images in two views but has "
            f"{tuple(z.shape)}."
        )
    if not z.isfinite().all():
        return z.new_tensor(math.nan)
    rows = z if z.device.type == "mps" else z.double()
    means = rows.mean(dim=1)
    within = (rows - means[:, None]).flatten(end_dim=1)
    spread = within.T @ within / len(within)
    rounding = 10 * z.shape[-1] * torch.finfo(rows.dtype).eps
    spread.diagonal().add_(torch.clamp(rounding * spread.diagonal().max(), min=delta))
    between = means - means.mean(dim=0)
    factor = torch.linalg.cholesky(spread)
    # its eigenvalues are the squared singular values of Σ_w^(-1/2) (μ_i - μ), however rooted
    whitened = torch.linalg.solve_triangular(factor, between.T, upper=False)
    eigenvalues = torch.linalg.svdvals(whitened).square()
    total = eigenvalues.sum()
    if total <= torch.finfo(total.dtype).tiny:
        return z.new_ones(())
    return perplexity(eigenvalues, eps).to(z.dtype)


@full_precision
def eigenspectrum_decay(z: Tensor, first: int = 4, last: int = 100) -> Tensor:
    r"""The exponent α of the power law :math:`\lambda_k \propto k^{-\alpha}` (α-ReQ).

    Minus the slope of the logarithm of the covariance's eigenvalues against that of their rank k,
    by least squares with weights 1/k.

    Source: Agrawal et al. (2022, "α-ReQ: assessing representation quality in self-supervised
    learning by measuring eigenspectrum decay"), who find representations good where α is close to
    1; ranks 4 to 100 and the weights are those of their code, after Stringer et al. (2019).

    Args:
        z: Embeddings (N, d).
        first: First rank that is fitted, counted from 1.
        last: Last rank; of fewer eigenvalues than that, which are more than rounding, the last.

    Returns:
        Scalar tensor, computed in float64; NaN where fewer than two eigenvalues are left, or an
        embedding is not finite.

    Raises:
        ValueError: If ``z`` is not a matrix, or the ranks are none.

    Examples:
        >>> scales = torch.arange(1, 9) ** -0.5  # of the directions, so that variances are 1/k
        >>> z = torch.cat([torch.eye(8), -torch.eye(8)]) * scales
        >>> round(eigenspectrum_decay(z, first=1).item(), 3)
        1.0
    """
    if z.ndim != 2 or not 1 <= first < last:
        raise ValueError(
            "A decay needs embeddings (N, d) and ranks 1 <= first < last but has "
            f"{tuple(z.shape)}, {first} and {last}."
        )
    if not z.isfinite().all():
        return z.new_tensor(math.nan)
    rows = z if z.device.type == "mps" else z.double()
    singular = torch.linalg.svdvals(rows - rows.mean(dim=0))
    rounding = max(z.shape) * torch.finfo(z.dtype).eps
    count = int((singular > rounding * singular.max()).sum())
    stop = min(last, count)
    if stop <= first:
        return z.new_tensor(math.nan)
    ranks = torch.arange(first, stop + 1, device=rows.device, dtype=rows.dtype)
    x, y = ranks.log(), 2 * singular[first - 1 : stop].log()
    weights = 1 / ranks
    weights /= weights.sum()
    x, y = x - (weights * x).sum(), y - (weights * y).sum()
    slope: Tensor = (weights * x * y).sum() / (weights * x * x).sum()
    return (-slope).to(z.dtype)
