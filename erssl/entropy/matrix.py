r"""Entropies of the spectrum of the embeddings' Gram matrix, of trace 1.

With :math:`\lambda` the eigenvalues of :math:`K / \mathrm{tr} K, K = Z Z^\top`, which are those of
:math:`Z^\top Z / \mathrm{tr} K` too. They say over how many directions the rows spread, 0 for one
direction to log min(N, d), whatever the rows' density within them: no entropies of the density.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from erssl.entropy._opaque import is_followed
from erssl.entropy._shapes import check_matrix
from erssl.entropy.precision import full_precision, product

_SMALLEST = 1e-6  # singular value that has a gradient, of the largest


@full_precision
def von_neumann_entropy(z: Tensor) -> Tensor:
    r"""Matrix entropy :math:`-\sum_k \lambda_k \log \lambda_k`, in nats.

    Source: Bach (2022, arXiv 2202.08545); Matrix-SSL (arXiv 2305.17326) builds a loss on it.

    Args:
        z: Embeddings (N, d), of unit norm for the linear kernel to be one at each row itself.

    Returns:
        Scalar tensor in [0, log min(N, d)], at least in float32; NaN where a row is not finite.

    Raises:
        ValueError: If ``z`` is not a matrix.

    Examples:
        >>> round(von_neumann_entropy(torch.eye(4)).exp().item(), 4)
        4.0
    """
    gram = _unit_trace(z)
    finite = gram.isfinite().all()
    eigenvalues = torch.linalg.eigvalsh(torch.where(finite, gram, 0.0)).clamp_min(0)
    entropy: Tensor = -(eigenvalues * eigenvalues.clamp_min(torch.finfo(z.dtype).tiny).log()).sum()
    return torch.where(finite, entropy, math.nan)


@full_precision
def matrix_renyi2_entropy(z: Tensor) -> Tensor:
    r"""Matrix Rényi entropy of order 2, :math:`-\log \sum_k \lambda_k^2`, in nats.

    Source: Giraldo, Rao and Príncipe (2014, arXiv 1211.2459); FroSSL (arXiv 2310.02903) builds a
    loss on it. At most :func:`von_neumann_entropy`, and without eigenvalues.

    Args:
        z: Embeddings (N, d), of unit norm for the linear kernel to be one at each row itself.

    Returns:
        Scalar tensor in [0, log min(N, d)], at least in float32; NaN where a row is not finite.

    Raises:
        ValueError: If ``z`` is not a matrix.

    Examples:
        >>> round(matrix_renyi2_entropy(torch.eye(4)).exp().item(), 4)
        4.0
    """
    purity = _unit_trace(z).square().sum()
    return -torch.where(purity == 0, 1.0, purity).log()  # rows of 0 are a point


@full_precision
def nuclear_norm(z: Tensor) -> Tensor:
    r"""Sum of the singular values :math:`\lVert Z \rVert_*`.

    Source: MMCR (arXiv 2303.03307) maximises it of the means of an image's views. Of rows of at
    most unit norm it is at most √N · √min(N, d), which rows reach that are spread evenly over
    all directions; √N where they all are one. A surrogate of the entropy of the spectrum.

    By the eigenvalues of the smaller Gram matrix, in float64 but on Apple's GPUs: an SVD of the
    rows takes several times as long. Singular values below a millionth of the largest have no
    gradient. Derivatives of the gradient are those of an SVD: NaN where singular values coincide.

    Args:
        z: Rows (N, d).

    Returns:
        Scalar tensor, at least in float32.

    Raises:
        ValueError: If ``z`` is not a matrix.

    Examples:
        >>> round(nuclear_norm(torch.eye(3)).item(), 4)
        3.0
    """
    check_matrix(z)
    if is_followed():
        return _plain_nuclear_norm(z)
    norm: Tensor = _NuclearNorm.apply(z)
    return norm


def _plain_nuclear_norm(z: Tensor) -> Tensor:
    """The norm by an SVD, whose derivatives of every order autograd knows."""
    x = z if z.device.type == "mps" else z.double()
    finite = x.isfinite().all()
    singular = torch.linalg.svdvals(torch.where(finite, x, 0.0))
    kept = singular > _SMALLEST * singular[0]
    norm = torch.where(kept, singular, singular.detach()).sum()
    return torch.where(finite, norm, math.nan).to(z)


class _NuclearNorm(torch.autograd.Function):
    """Whose gradient is Z (ZᵀZ)^(-1/2), or one that can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        x = z if z.device.type == "mps" else z.double()
        gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
        finite = gram.isfinite().all()
        values, vectors = torch.linalg.eigh(torch.where(finite, gram, 0.0))
        singular = values.clamp_min(0).sqrt()
        kept = singular > _SMALLEST * singular[-1]
        inverse = torch.where(kept, 1 / singular, 0.0)
        root = (vectors * inverse) @ vectors.T
        gradient = root @ x if len(x) < x.shape[1] else x @ root
        ctx.save_for_backward(z, gradient.to(z))
        return torch.where(finite, singular.sum(), math.nan).to(z)

    @staticmethod
    @full_precision
    def backward(ctx: Any, of_norm: Tensor) -> Tensor:
        z, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():
            (gradient,) = torch.autograd.grad(_plain_nuclear_norm(z), z, create_graph=True)
        result: Tensor = of_norm * gradient
        return result


def _unit_trace(z: Tensor) -> Tensor:
    """The smaller of ZZᵀ and ZᵀZ, divided by its trace; of rows of 0 it is 0."""
    check_matrix(z)
    largest = z.detach().abs().amax()  # a matter of scale, which a square would leave the range by
    z = z / torch.where(largest == 0, 1.0, largest)
    gram = product(z, z.T) if len(z) < z.shape[1] else product(z.T, z)
    trace = gram.diagonal().sum()
    return gram / torch.where(trace == 0, 1.0, trace)
