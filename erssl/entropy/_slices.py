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
_STRIDE = 4  # knots from one to what it is computed from, and knots in an operation
_FEW = 16  # numbers that are summed in float32
_SORTED = 64  # slices that are sorted while they stay in a CPU's cache
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
        count: Number K of frequencies, at least 4.
        total: Sums a tensor over ranks, where others hold rows of the same batch.
        world: Number of ranks, each with N rows.
    """
    n, slices = len(x), directions.shape[1]
    # made where the rows are: a copy from the host would wait for the device
    steps = torch.arange(1, count + 1, device=x.device, dtype=_sums_dtype(x))
    times = steps * spacing
    target = (-0.5 * times.square()).exp()
    weight = spacing * torch.where(steps < count, 2.0, 1.0) * target
    derivative = weight * times
    sign = _signs(steps)
    tile = max(1, (_CACHED if x.device.type == "cpu" else _HELD) // (2 * count * n))
    waves = x.new_empty(min(tile, _BLOCK), 2, count, n)
    statistic = target.new_zeros(())
    gradient = torch.zeros_like(x) if needs_gradient else None
    for columns in _blocks(directions):
        projections = columns @ x.T
        slopes = torch.empty_like(projections) if needs_gradient else None
        for start in range(0, len(projections), tile):
            rows = slice(start, start + tile)
            own = _waves(projections[rows] * spacing, waves)
            sums = _sums(own)
            means = (sums if total is None else total(sums)) * sign / (n * world)
            # of size 1 / sqrt(N) at best, and differences of numbers near 1: in float64
            real, imaginary = means[:, 0] - target, means[:, 1]
            statistic += (weight * (real.square() + imaginary.square())).sum()
            if slopes is not None:
                factors = torch.stack([derivative * imaginary, -derivative * real], dim=1) * sign
                of_waves = factors.to(x).flatten(1)[:, None]
                slopes[rows] = torch.bmm(of_waves, own.flatten(1, 2))[:, 0]
        if gradient is not None and slopes is not None:
            gradient.addmm_(slopes.T, columns, alpha=2 / slices)
    return (statistic * (n * world / max(1, slices))).to(x), gradient


def _waves(angles: Tensor, waves: Tensor) -> Tensor:
    """Cosines and sines of k times angles (T, N), k = 1, ..., K, as (T, 2, K, N).

    The first four are made from the first by angle addition, all others four at a time by
    cos((k + 4)a) = 2 cos(4a) cos(ka) - cos((k - 4)a), and sines alike. With steps of one angle
    the rounding would grow by K²/2, for angles are small; with steps of four it grows by a 16th of
    that. They come with the signs of :func:`_signs`, by which a step is one operation.
    """
    own = waves[: len(angles)]
    count = own.shape[2]
    _first_waves(angles, own[:, 0], own[:, 1])
    one, twice = angles.new_ones(()), 2 * own[:, 0, _STRIDE - 1]
    for k in range(_STRIDE, min(count, 2 * _STRIDE)):
        mirrored = 2 * _STRIDE - 2 - k  # of knot k + 1 - 8, which is not above 0
        cosine = one if mirrored < 0 else own[:, 0, mirrored]
        sine = 0 * one if mirrored < 0 else own[:, 1, mirrored]
        torch.addcmul(cosine, twice, own[:, 0, k - _STRIDE], value=-1, out=own[:, 0, k])
        torch.addcmul(sine, twice, own[:, 1, k - _STRIDE], out=own[:, 1, k])
    for start in range(2 * _STRIDE, count, _STRIDE):
        size = min(_STRIDE, count - start)
        odd = start // _STRIDE % 2
        for part in (0, 1):
            before = own[:, part, start - 2 * _STRIDE :][:, :size]
            last = own[:, part, start - _STRIDE :][:, :size]
            value = 1 if odd == part else -1
            out = own[:, part, start : start + size]
            torch.addcmul(before, twice[:, None], last, value=value, out=out)
    return own


def _first_waves(angles: Tensor, cosines: Tensor, sines: Tensor) -> None:
    """Write the first four of (T, K, N); 1 - 2 sin² keeps the digits of small angles."""
    one = angles.new_ones(())
    c1, c2, c3, c4 = (cosines[:, k] for k in range(_STRIDE))
    s1, s2, s3, s4 = (sines[:, k] for k in range(_STRIDE))
    torch.cos(angles, out=c1)
    torch.sin(angles, out=s1)
    torch.addcmul(one, s1, s1, value=-2, out=c2)
    torch.mul(s1, c1, out=s2).mul_(2)
    torch.mul(c1, c2, out=c3).addcmul_(s1, s2, value=-1)
    torch.mul(s1, c2, out=s3).addcmul_(c1, s2)
    torch.addcmul(one, s2, s2, value=-2, out=c4)
    torch.mul(s2, c2, out=s4).mul_(2)


def _signs(steps: Tensor) -> Tensor:
    """Signs (2, K) that cosines and sines of :func:`_waves` have, four at a time."""
    block = ((steps - 1) / _STRIDE).floor() % 4
    cosine = torch.where((block == 1) | (block == 2), -1.0, 1.0)
    return torch.stack([cosine, torch.where(block >= 2, -1.0, 1.0)]).to(steps)


def _sums_dtype(x: Tensor) -> torch.dtype:
    return x.dtype if x.device.type == "mps" else torch.float64  # Apple's GPUs have no float64


def _sums(waves: Tensor) -> Tensor:
    """Sums over the last dimension: of a few by the inputs' precision, of these by float64."""
    n = waves.shape[-1]
    whole = n - n % _FEW
    parts = waves[..., :whole].unflatten(-1, (_FEW, -1)).sum(dim=-2) if whole else waves[..., :0]
    dtype = _sums_dtype(waves)
    return parts.sum(dim=-1, dtype=dtype) + waves[..., whole:].sum(dim=-1, dtype=dtype)


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
    in which the index travels, so that numbers alone are sorted; as integers, twice as quick.
    """
    n = rows.shape[1]
    if rows.device.type != "cpu":
        return rows.argsort(dim=1)
    if rows.dtype != torch.float32 or n >= 2**_INDEX_BITS:
        return torch.from_numpy(np.argsort(rows.numpy(), axis=1))
    order = torch.empty(rows.shape, dtype=torch.int64)
    index = np.arange(n)
    for start in range(0, len(rows), _SORTED):  # while they are in the cache
        bits = rows[start : start + _SORTED].double().numpy().view(np.int64)
        bits ^= (bits >> 63) & np.int64(2**63 - 2**_INDEX_BITS)  # negative numbers fall otherwise
        bits |= index
        bits.sort(axis=1)
        bits &= 2**_INDEX_BITS - 1
        order[start : start + _SORTED] = torch.from_numpy(bits)
    return order


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
