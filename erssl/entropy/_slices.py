"""Sums over one-dimensional slices with their gradient, a tile of slices at a time.

What autograd would keep of every slice, or of every frequency of it, is never held: the gradient is
made beside the value, in closed form, while a tile is in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erssl.entropy.precision import full_precision

Plain = Callable[[Tensor, Tensor], Tensor]
Measured = tuple[Tensor, Tensor | None]

_BLOCK = 256  # slices that are projected at once
_CACHED = 2**20  # numbers of all frequencies that stay in a CPU's cache
_HELD = 2**26  # the same on a GPU, which wants few and large operations
_INDEX_BITS = 29  # that a float64 has beyond the mantissa of a float32


class SliceSum(torch.autograd.Function):
    """A scalar of rows (N, d) by directions (d, S), with its closed-form gradient.

    ``measure(x, directions, needs_gradient)`` gives both; ``plain`` is the same value by
    operations that autograd knows, for second derivatives.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        directions: Tensor,
        measure: Callable[[Tensor, Tensor, bool], Measured],
        plain: Plain,
    ) -> Tensor:
        """Keep the gradient (N, d) beside the value."""
        value, gradient = measure(x.detach(), directions, ctx.needs_input_grad[0])
        ctx.plain = plain
        ctx.save_for_backward(x, directions, gradient)
        return value

    @staticmethod
    @full_precision
    def backward(ctx: Any, of_value: Tensor) -> tuple[Tensor, None, None, None]:
        """The kept gradient, or one that can be differentiated again."""
        x, directions, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():
            value = ctx.plain(x, directions)
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        return of_value * gradient, None, None, None


def epps_pulley(
    x: Tensor,
    directions: Tensor,
    needs_gradient: bool,
    *,
    spacing: float,
    count: int,
    total: Callable[[Tensor], Tensor] | None = None,
    world: int = 1,
) -> Measured:
    """Mean over slices of N ∫ |φ̂(t) - exp(-t²/2)|² exp(-t²/2) dt, and its gradient.

    By the trapezoid rule on multiples of one frequency (at 0 both functions are 1), doubled.
    Frequencies are multiples of the first, so that two cosines and sines a number give all
    others by a recurrence.

    Args:
        x: This rank's rows (N, d).
        directions: Unit columns (d, S).
        needs_gradient: Whether the gradient is asked for.
        spacing: The first frequency t_1; the others are its multiples.
        count: Number K of frequencies, at least 2.
        total: Sums a tensor over ranks, where others hold rows of the same batch.
        world: Number of ranks, each with N rows.
    """
    n, slices = len(x), directions.shape[1]
    # made where the rows are: a copy from the host would wait for the device
    steps = torch.arange(1, count + 1, device=x.device, dtype=x.dtype)
    times = steps * spacing
    target = (-0.5 * times.square()).exp()
    weight = torch.where(steps < count, 2 * spacing, spacing) * target
    derivative = weight * times
    sign = 1 - 2 * (((steps - 1) / 2).floor() % 2)
    tile = max(1, (_CACHED if x.device.type == "cpu" else _HELD) // (2 * count * n))
    waves = x.new_empty(min(tile, _BLOCK), 2, count, n)
    statistic = x.new_zeros(())
    gradient = torch.zeros_like(x) if needs_gradient else None
    for columns in _blocks(directions):
        projections = columns @ x.T
        slopes = torch.empty_like(projections) if needs_gradient else None
        for start in range(0, len(projections), tile):
            rows = slice(start, start + tile)
            own = _waves(projections[rows] * spacing, waves)
            sums = own.sum(dim=-1)
            means = (sums if total is None else total(sums)) * sign / (n * world)
            real, imaginary = means[:, 0] - target, means[:, 1]
            statistic += (weight * (real.square() + imaginary.square())).sum()
            if slopes is not None:
                factors = torch.stack([derivative * imaginary, -derivative * real], dim=1) * sign
                of_waves = factors.flatten(1)[:, None]
                slopes[rows] = torch.bmm(of_waves, own.flatten(1, 2))[:, 0]
        if gradient is not None and slopes is not None:
            gradient.addmm_(slopes.T, columns, alpha=2 / slices)
    return statistic * (n * world / slices), gradient


def _waves(angles: Tensor, waves: Tensor) -> Tensor:
    """Cosines and sines of k times angles (T, N), k = 1, …, K, as (T, 2, K, N).

    They come with the signs +, +, -, -, +, +, …, by which each step is one operation:
    cos((k + 1)a) = 2 cos(a) cos(ka) - cos((k - 1)a), and sines alike.
    """
    own = waves[: len(angles)]
    cosines, sines = own[:, 0], own[:, 1]
    torch.cos(angles, out=cosines[:, 0])
    torch.sin(angles, out=sines[:, 0])
    twice = 2 * cosines[:, 0]
    torch.mul(twice, cosines[:, 0], out=cosines[:, 1]).sub_(1)
    torch.mul(twice, sines[:, 0], out=sines[:, 1])
    for k in range(2, own.shape[2]):
        value = 1 if k % 2 else -1
        for part in (cosines, sines):
            torch.addcmul(part[:, k - 2], twice, part[:, k - 1], value=value, out=part[:, k])
    return own


def wasserstein(
    x: Tensor, directions: Tensor, needs_gradient: bool, *, quantiles: Tensor
) -> Measured:
    """Mean over slices and rows of (sorted projection - quantile)², and its gradient.

    Args:
        x: Rows (N, d).
        directions: Unit columns (d, S).
        needs_gradient: Whether the gradient is asked for.
        quantiles: Of the density to reach (N,), ascending.
    """
    numbers = len(x) * max(1, directions.shape[1])  # a rank may have no slices
    distance = x.new_zeros(())
    gradient = torch.zeros_like(x) if needs_gradient else None
    for columns in _blocks(directions):
        projections = columns @ x.T
        order = _order(projections)
        met = torch.empty_like(projections)
        met.scatter_(1, order, quantiles.expand_as(projections))
        difference = projections.sub_(met)
        distance += difference.square().sum()
        if gradient is not None:
            gradient.addmm_(difference.T, columns, alpha=2 / numbers)
    return distance / numbers, gradient


def _order(rows: Tensor) -> Tensor:
    """What sorts each row of (S, N).

    On a CPU by NumPy, many times as quick as torch 2.14: a float32 leaves bits of a float64 free,
    in which the index travels, so that numbers alone are sorted.
    """
    n = rows.shape[1]
    if rows.device.type != "cpu":
        return rows.argsort(dim=1)
    if rows.dtype != torch.float32 or n >= 2**_INDEX_BITS:
        return torch.from_numpy(np.argsort(rows.numpy(), axis=1))
    numbers = rows.double().numpy()
    bits = numbers.view(np.int64)
    bits |= np.arange(n)
    numbers.sort(axis=1)
    bits &= 2**_INDEX_BITS - 1
    return torch.from_numpy(bits)


def _blocks(directions: Tensor) -> Iterator[Tensor]:
    """Directions as rows (S, d), a block at a time."""
    for start in range(0, directions.shape[1], _BLOCK):
        yield directions[:, start : start + _BLOCK].T.contiguous()


def normal_quantiles(n: int, like: Tensor, position: float) -> Tensor:
    """Quantiles of N(0, 1) at the plotting positions (i - a) / (N + 1 - 2a), a = ``position``."""
    on_mps = like.device.type == "mps"  # which has neither float64 nor this function
    device = torch.device("cpu") if on_mps else like.device
    ranks = torch.arange(1, n + 1, dtype=torch.float64, device=device)
    levels = (ranks - position) / (n + 1 - 2 * position)
    quantiles: Tensor = torch.special.ndtri(levels).to(like)
    return quantiles


def check_position(position: float) -> None:
    """Refuse what gives a quantile at infinity."""
    if not 0 <= position < 1 or math.isnan(position):
        raise ValueError(f"The plotting position must be in [0, 1) but is {position}.")
