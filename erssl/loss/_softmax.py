"""What a loss needs of a soft-max over many outcomes, without keeping the soft-max."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from erssl.entropy.precision import full_precision, mapped_first, row_products

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
    mean, cross, _ = _SoftmaxTerms.apply(logits, target, temperature)
    return mean, cross


class _SoftmaxTerms(torch.autograd.Function):
    """A few rows at a time; the gradient makes the soft-max again from its normaliser."""

    @staticmethod
    def forward(
        logits: Tensor, target: Tensor | None, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        total = logits.new_zeros(logits.shape[1])
        cross, normalizer = (logits.new_zeros(len(logits)) for _ in range(2))
        for rows in _tiles(logits):
            log_probs = logits[rows] / temperature
            normalizer[rows] = log_probs.logsumexp(dim=1)
            log_probs -= normalizer[rows, None]
            if target is not None:
                cross[rows] = row_products(target[rows], log_probs)
            total += log_probs.exp_().sum(dim=0)
        return total / len(logits), cross, normalizer

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor | None, float],
        output: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        logits, target, ctx.temperature = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(logits, target, output[2])

    @staticmethod
    @full_precision
    def backward(
        ctx: Any, of_mean: Tensor, of_cross: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor | None, None]:
        logits, target, normalizer = ctx.saved_tensors
        of_mean = of_mean / len(logits)
        if torch.is_grad_enabled():  # a second derivative follows: by operations that have one
            return _gradients(logits, target, ctx.temperature, of_mean, of_cross)
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

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, int | None, None],
        logits: Tensor,
        target: Tensor | None,
        temperature: float,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        size = info.batch_size
        targets = [None] * size if target is None else mapped_first(target, in_dims[1], size)
        pairs = zip(mapped_first(logits, in_dims[0], size), targets, strict=True)
        each = [_SoftmaxTerms.apply(own, t, temperature) for own, t in pairs]
        return tuple(torch.stack(part) for part in zip(*each, strict=True)), (0, 0, 0)


def _gradients(
    logits: Tensor, target: Tensor | None, temperature: float, of_mean: Tensor, of_cross: Tensor
) -> tuple[Tensor, Tensor | None, None]:
    """Gradients of logits and target, of all rows at once, which can be differentiated again."""
    log_probs = (logits / temperature).log_softmax(dim=1)
    probs = log_probs.exp()
    gradient = (of_mean - (probs @ of_mean)[:, None]) * probs
    if target is None:
        return gradient / temperature, None, None
    weighted = target * of_cross[:, None]
    gradient = gradient + weighted - weighted.sum(dim=1, keepdim=True) * probs
    return gradient / temperature, log_probs * of_cross[:, None], None


def _tiles(logits: Tensor) -> Iterator[slice]:
    n, outcomes = logits.shape
    rows = max(1, _CACHED // outcomes) if logits.device.type == "cpu" else n
    return (slice(start, start + rows) for start in range(0, n, rows))
