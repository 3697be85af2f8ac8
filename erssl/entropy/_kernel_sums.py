r"""Sums of vMF kernels :math:`\log \sum_j \exp(\kappa \, q_i^\top k_j)`, a few rows at a time.

Of few rows one triangle of the matrix of pairs is kept for the gradient, which saves a quarter of
the products; of many rows nothing is: the gradient makes each tile of it again. Second derivatives,
and ``torch.func``, which may take some, do keep the matrix.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from erssl.entropy.precision import full_precision

_ROWS = 256  # of a tile on the CPU, where more leave more of the triangle's blocks half idle
_KEPT = 2**24  # pairs of which a triangle is kept for the gradient: 32 MiB, of 4,096 rows
_PAIRS = 2**26  # of a tile elsewhere (256 MiB), and from which on other pairs come in tiles


def log_kernel_sums(
    queries: Tensor, keys: Tensor, kappa: float, own_offset: int | None = None
) -> Tensor:
    """Logarithm (N,) of the sum over keys of exp(kappa q·k), at each query.

    Args:
        queries: Rows (N, d).
        keys: Rows (M, d); where they are the very ``queries``, half of the products are saved.
        kappa: Concentration.
        own_offset: The row of ``keys`` at which the queries begin, to leave out each one's own
            term; ``None`` keeps it.
    """
    if keys is queries:
        keep = queries.requires_grad and torch.is_grad_enabled() and len(queries) ** 2 <= _KEPT
        sums: Tensor = _OwnKernelSums.apply(queries, kappa, own_offset is not None, keep)[0]
        return sums
    rows = max(1, _PAIRS // len(keys))
    if len(queries) <= rows:
        return _sums(queries, keys, kappa, own_offset)
    tiles = [
        checkpoint(
            _sums,
            tile,
            keys,
            kappa,
            None if own_offset is None else own_offset + rows * number,
            use_reentrant=False,
        )
        for number, tile in enumerate(queries.split(rows))
    ]
    return torch.cat(tiles)


def _sums(queries: Tensor, keys: Tensor, kappa: float, own_offset: int | None) -> Tensor:
    return _all_exponents(queries, keys, kappa, own_offset).logsumexp(dim=1)


def _all_exponents(queries: Tensor, keys: Tensor, kappa: float, own_offset: int | None) -> Tensor:
    exponents = kappa * (queries @ keys.T)
    if own_offset is not None:
        exponents.diagonal(own_offset).fill_(-math.inf)
    return exponents


class _OwnKernelSums(torch.autograd.Function):
    """The sums of rows over themselves, from one triangle of the symmetric matrix of pairs."""

    @staticmethod
    def forward(z: Tensor, kappa: float, leave_out: bool, keep: bool) -> tuple[Tensor, Tensor]:
        sums = z.new_full((len(z),), -math.inf)
        kept = z.new_empty(sum((end - start) * end for start, end in _tiles(z)) if keep else 0)
        for tile, (start, end) in zip(_kept_tiles(kept, z), _tiles(z), strict=True):
            exponents = _exponents(z, start, end, kappa, leave_out, tile)
            sums[start:end] = exponents.logsumexp(dim=1)  # later tiles add what is to the right
            if start:
                above = exponents[:, :start].logsumexp(dim=0)
                sums[:start] = torch.logaddexp(sums[:start], above)
        return sums, kept

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, float, bool, bool], output: tuple[Tensor, Tensor]
    ) -> None:
        z, *ctx.options = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(z, *output)

    @staticmethod
    @full_precision
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        z, sums, kept = ctx.saved_tensors
        kappa, leave_out, _ = ctx.options
        # Σ_i g_i P_ij + g_j P_ji meets z_i, with P the soft-max of the exponents
        if torch.is_grad_enabled():  # a second derivative follows: by operations that have one
            shares = _all_exponents(z, z, kappa, 0 if leave_out else None).softmax(dim=1)
            weights = gradient[:, None] * shares
            return kappa * ((weights + weights.T) @ z), None, None, None
        result = torch.zeros_like(z)
        for tile, (start, end) in zip(_kept_tiles(kept, z), _tiles(z), strict=True):
            exponents = _exponents(z, start, end, kappa, leave_out) if tile is None else tile
            weights = (exponents - sums[start:end, None]).exp_().mul_(gradient[start:end, None])
            weights += (exponents - sums[:end]).exp_().mul_(gradient[:end])
            result[start:end].addmm_(weights, z[:end], alpha=kappa)
            result[:start].addmm_(weights[:, :start].T, z[start:end], alpha=kappa)
        return result, None, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int, None, None, None],
        z: Tensor,
        kappa: float,
        leave_out: bool,
        keep: bool,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        apply = _OwnKernelSums.apply
        each = [apply(own, kappa, leave_out, False) for own in z.movedim(in_dims[0], 0)]
        sums, kept = (torch.stack(part) for part in zip(*each, strict=True))
        return (sums, kept), (0, 0)


def _kept_tiles(kept: Tensor, z: Tensor) -> list[Tensor | None]:
    """The tiles that ``kept`` holds one after another; ``None`` for each where it is empty."""
    tiles = _tiles(z)
    if not len(kept):
        return [None] * len(tiles)
    parts = kept.split([(end - start) * end for start, end in tiles])
    return [part.view(-1, end) for part, (_, end) in zip(parts, tiles, strict=True)]


def _tiles(z: Tensor) -> list[tuple[int, int]]:
    n = len(z)
    rows = _ROWS if z.device.type == "cpu" else max(_ROWS, _PAIRS // n)
    return [(start, min(start + rows, n)) for start in range(0, n, rows)]


def _exponents(
    z: Tensor, start: int, end: int, kappa: float, leave_out: bool, out: Tensor | None = None
) -> Tensor:
    exponents = torch.mm(z[start:end], z[:end].T, out=out).mul_(kappa)
    if leave_out:
        exponents.diagonal(start).fill_(-math.inf)
    return exponents
