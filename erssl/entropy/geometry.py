"""How embeddings lie on the sphere: alignment, cones, uniformity, effective rank, spread."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from erssl.entropy.precision import at_least_float32, full_precision, product


def unit_rows(z: Tensor) -> Tensor:
    """Rows of unit norm whatever their scale, for a reading of how they lie on the sphere.

    A row of 0 has no direction. All of them are put at one point, the first axis, so that a network
    whose embeddings have died reads as collapsed. (At 0, outside the sphere, they would be at right
    angles to everything, themselves included, and read as uniform.)

    Args:
        z: Embeddings (N, d), rows as they are.

    Returns:
        Tensor (N, d), at least in float32; rows that are not finite hold NaN.
    """
    z = at_least_float32(z)
    scale = z.detach().abs().amax(dim=-1, keepdim=True)  # squares overflow or vanish without
    z = z / torch.where(scale > 0, scale, 1.0)
    norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    first_axis = (torch.arange(z.shape[-1], device=z.device) == 0).to(z.dtype)
    return torch.where(norm == 0, first_axis, z / torch.where(norm == 0, 1.0, norm))


@full_precision
def alignment(z0: Tensor, z1: Tensor) -> Tensor:
    """Mean cosine of two views' embeddings, in [-1, 1].

    Wang and Isola (2020, arXiv 2005.10242) call the mean of ‖z0 - z1‖² = 2 - 2 cos alignment.

    Args:
        z0: Embeddings (N, d) of view 0 with rows of unit norm.
        z1: Embeddings (N, d) of view 1 with rows of unit norm.

    Raises:
        ValueError: If the shapes differ.

    Examples:
        >>> alignment(torch.eye(3), torch.eye(3)).item()
        1.0
    """
    if z0.shape != z1.shape or z0.ndim != 2:
        raise ValueError(
            "Both views must have one shape (N, d) but have "
            f"{tuple(z0.shape)} and {tuple(z1.shape)}."
        )
    return (z0 * z1).sum(dim=1).mean()


@full_precision
def mean_cosine(z: Tensor) -> Tensor:
    """Mean cosine of different rows: 0 where they lie all around, near 1 in a cone.

    Args:
        z: Embeddings (N, d) with rows of unit norm, N of at least 2.

    Returns:
        Scalar tensor in [-1 / (N - 1), 1].

    Raises:
        ValueError: If there are fewer than two rows.

    Examples:
        >>> round(mean_cosine(torch.tensor([[1.0, 0.0], [0.6, 0.8]])).item(), 4)
        0.6
    """
    if z.ndim != 2 or len(z) < 2:
        raise ValueError(f"A mean cosine needs embeddings (N, d), N >= 2; got {tuple(z.shape)}.")
    n = len(z)
    return (z.sum(dim=0).square().sum() - z.square().sum()) / (n * (n - 1))


@full_precision
def uniformity(z: Tensor, t: float = 2.0) -> Tensor:
    r"""Uniformity, :math:`\log \mathrm{mean}_{i \ne j} \exp(-t \lVert z_i - z_j \rVert^2)`.

    Source: Wang and Isola (2020, arXiv 2005.10242), equation 2, with their t = 2; at most 0,
    the value of a single point.

    Args:
        z: Embeddings (N, d) with rows of unit norm, N of at least 2.
        t: Inverse width of the Gaussian kernel, above 0.

    Raises:
        ValueError: If there are fewer than two rows.

    Examples:
        >>> round(uniformity(torch.eye(3)).item(), 4)  # every squared distance is 2
        -4.0
    """
    if z.ndim != 2 or len(z) < 2:
        raise ValueError(f"Uniformity needs embeddings (N, d), N >= 2; got {tuple(z.shape)}.")
    n = len(z)
    exponents = 2 * t * (product(z, z.T) - 1)
    exponents.fill_diagonal_(-torch.inf)
    return exponents.flatten().logsumexp(dim=0) - math.log(n * (n - 1))


@full_precision
def effective_rank(z: Tensor, eps: float = 1e-7) -> Tensor:
    r"""RankMe, :math:`\exp(-\sum_k p_k \log p_k)` of the singular values' shares p.

    Source: Garrido et al. (2023, arXiv 2210.02885), equation 1, with their eps added to the
    shares. Between 1, a single direction, and min(N, d).

    Args:
        z: Embeddings (N, d).
        eps: Added to the shares, for a finite logarithm.

    Returns:
        Scalar tensor; NaN where an embedding is not finite.

    Examples:
        >>> round(effective_rank(torch.eye(5)).item(), 3)
        5.0
    """
    if not z.isfinite().all():
        return z.new_tensor(math.nan)  # which svdvals would raise at
    return perplexity(torch.linalg.svdvals(z), eps)


def perplexity(values: Tensor, eps: float) -> Tensor:
    r"""Exponential of the entropy, :math:`\exp(-\sum_k p_k \log p_k)`, of values' shares p.

    Args:
        values: Values (K,), at least 0.
        eps: Added to the shares, for a finite logarithm.

    Returns:
        Scalar tensor.
    """
    total = values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    shares = values / total + eps
    entropy: Tensor = -(shares * shares.log()).sum()
    return entropy.exp()


@full_precision
def spread(z: Tensor) -> Tensor:
    """Standard deviation of each dimension times √d, averaged: 1 where isotropic, 0 at a point.

    Chen and He (2021, arXiv 2011.10566), Fig. 2, plot it against collapse.

    Args:
        z: Embeddings (N, d) with rows of unit norm.

    Examples:
        >>> spread(torch.ones(4, 1)).item()
        0.0
    """
    return z.std(dim=0, unbiased=False).mean() * math.sqrt(z.shape[1])
