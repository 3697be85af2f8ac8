"""Entropy of discrete surrogates such as cluster assignments and soft-max outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from erssl.entropy.precision import full_precision


@full_precision
def discrete_entropy(probs: Tensor) -> Tensor:
    r"""Entropy of the marginal, :math:`-\sum_c \bar p_c \log \bar p_c`, in nats.

    Source: ER paper, discrete surrogates: :math:`\bar p` is the mean of the rows,
    so that the largest value, log K, is reached when the batch uses all K outcomes alike.

    Args:
        probs: Probabilities (N, K), each row summing to 1.

    Returns:
        Scalar tensor in [0, log K], at least in float32, with a finite gradient where outcomes
        have probability 0.

    Raises:
        ValueError: If ``probs`` is not a matrix.

    Examples:
        >>> round(discrete_entropy(torch.eye(4)).exp().item(), 4)
        4.0
    """
    if probs.ndim != 2:
        raise ValueError(f"Probabilities must have shape (N, K) but have {tuple(probs.shape)}.")
    mean = probs.mean(dim=0)
    return -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()
