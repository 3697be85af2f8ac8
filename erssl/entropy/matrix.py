r"""Entropies of the spectrum of the embeddings' Gram matrix, of trace 1.

With :math:`\lambda` the eigenvalues of :math:`K / \mathrm{tr} K, K = Z Z^\top`, which are those of
:math:`Z^\top Z / \mathrm{tr} K` too. They say over how many directions the rows spread, 0 for one
direction to log min(N, d), whatever the rows' density within them: no entropies of the density.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from erssl.entropy._precision import full_precision


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
    if not bool(gram.isfinite().all()):
        return z.new_tensor(math.nan)  # which eigvalsh would raise at
    eigenvalues = torch.linalg.eigvalsh(gram).clamp_min(0)
    entropy: Tensor = -(eigenvalues * eigenvalues.clamp_min(torch.finfo(z.dtype).tiny).log()).sum()
    return entropy


@full_precision
def matrix_renyi2_entropy(z: Tensor) -> Tensor:
    r"""Matrix Rényi entropy of order 2, :math:`-\log \sum_k \lambda_k^2`, in nats.

    Source: Giraldo, Rao and Príncipe (2014, arXiv 1211.2459); FroSSL (arXiv 2310.02903) builds a
    loss on it. At most :func:`von_neumann_entropy`, and without eigenvalues.

    Args:
        z: Embeddings (N, d), of unit norm for the linear kernel to be one at each row itself.

    Returns:
        Scalar tensor in [0, log min(N, d)], at least in float32.

    Raises:
        ValueError: If ``z`` is not a matrix.

    Examples:
        >>> round(matrix_renyi2_entropy(torch.eye(4)).exp().item(), 4)
        4.0
    """
    return -_unit_trace(z).square().sum().log()


def _unit_trace(z: Tensor) -> Tensor:
    """The smaller of ZZᵀ and ZᵀZ, divided by its trace."""
    if z.ndim != 2 or len(z) < 1:
        raise ValueError(f"Embeddings must have shape (N, d) with N >= 1; got {tuple(z.shape)}.")
    gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
    return gram / gram.diagonal().sum().clamp_min(torch.finfo(z.dtype).tiny)
