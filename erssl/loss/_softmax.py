"""What a loss needs of a soft-max over many outcomes, without keeping the soft-max."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from erssl.entropy._precision import full_precision, row_products

_CACHED = 2**18  # numbers that stay in a CPU's cache while several passes are made over them


def softmax_terms(
    logits: Tensor, target: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """Batch mean of p = softmax(logits / temperature), and Σ_k t_k log p_k of each row.

    Args:
        logits: Logits (N, K).
        target: Probabilities (N, K), each row summing to 1; ``None`` for the mean alone.
        temperature: Above 0.

    Returns:
        Tensors (K,) and (N,), the second 0 without a target.
    """
    terms: tuple[Tensor, Tensor] = _SoftmaxTerms.apply(logits, target, temperature)
    return terms


class _SoftmaxTerms(torch.autograd.Function):
    """A few rows at a time; the gradient makes the soft-max again from its normaliser."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor | None, temperature: float
    ) -> tuple[Tensor, Tensor]:
        total = logits.new_zeros(logits.shape[1])
        cross, normalizer = (logits.new_zeros(len(logits)) for _ in range(2))
        for rows in _tiles(logits):
            log_probs = logits[rows] / temperature
            normalizer[rows] = log_probs.logsumexp(dim=1)
            log_probs -= normalizer[rows, None]
            if target is not None:
                cross[rows] = row_products(target[rows], log_probs)
            total += log_probs.exp_().sum(dim=0)
        ctx.save_for_backward(logits, target, normalizer)
        ctx.temperature = temperature
        return total / len(logits), cross

    @staticmethod
    @once_differentiable
    @full_precision
    def backward(ctx: Any, of_mean: Tensor, of_cross: Tensor) -> tuple[Tensor, Tensor | None, None]:
        logits, target, normalizer = ctx.saved_tensors
        of_mean = of_mean / len(logits)
        result = torch.empty_like(logits)
        of_target = torch.empty_like(target) if ctx.needs_input_grad[1] else None
        for rows in _tiles(logits):
            log_probs = (logits[rows] / ctx.temperature).sub_(normalizer[rows, None])
            weight = of_cross[rows, None]
            if of_target is not None:
                torch.mul(log_probs, weight, out=of_target[rows])
            probs = log_probs.exp_()
            # dp_k = p_k (δ - p), and rows of the target sum to 1
            shift = (probs @ of_mean)[:, None] + (weight if target is not None else 0)
            gradient = torch.sub(of_mean, shift, out=result[rows]).mul_(probs)
            if target is not None:
                gradient.addcmul_(target[rows], weight)
            gradient.div_(ctx.temperature)
        return result, of_target, None


def _tiles(logits: Tensor) -> Iterator[slice]:
    n, outcomes = logits.shape
    rows = max(1, _CACHED // outcomes) if logits.device.type == "cpu" else n
    return (slice(start, start + rows) for start in range(0, n, rows))
