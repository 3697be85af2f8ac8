"""Symmetric matrices of which only the lower triangle is computed, a block at a time.

A Gram matrix needs half of the products that ``z @ z.T`` makes, and LAPACK's factorisation and
triangular solves run at little more than half the rate of a matrix product; in blocks nearly all
of the work is matrix products. A matrix (..., N, N) here holds what lies on or below the blocks of
the diagonal; the rest is never read. On a GPU, where a product of few rows is slow, there is one
block, and so whole matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCKS = 128, 256  # rows of a block, up to 1024 rows in all and beyond: quickest with AVX-512
_SAMPLE, _MARGIN = 2**16, 0.02  # of the bracket in which a median is looked for


def in_blocks(matrix: Tensor) -> bool:
    """Whether a matrix is looked at in several blocks."""
    return matrix.device.type == "cpu"


def spans(matrix: Tensor) -> list[tuple[int, int]]:
    """First row of each block of a matrix (..., N, N), and the one after its last."""
    n = matrix.shape[-1]
    size = _BLOCKS[n > 1024] if in_blocks(matrix) else n
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def panels(matrix: Tensor) -> Iterator[Tensor]:
    """Each block's rows of a matrix (..., N, N), as far as they are filled."""
    for start, end in spans(matrix):
        yield matrix[..., start:end, :end]


def gram(z: Tensor) -> Tensor:
    """Products (..., N, N) of all pairs of rows of ``z`` (..., N, d)."""
    products = z.new_empty(*z.shape[:-1], z.shape[-2])
    for start, end in spans(products):
        torch.matmul(z[..., start:end, :], z[..., :end, :].mT, out=products[..., start:end, :end])
    return products


def row_sums(matrix: Tensor) -> Tensor:
    """Sum (..., N) of each row."""
    sums = matrix.new_zeros(matrix.shape[:-1])
    for (start, end), panel in zip(spans(matrix), panels(matrix), strict=True):
        sums[..., start:end] += panel.sum(dim=-1)
        sums[..., :start] += panel[..., :start].sum(dim=-2)
    return sums


def product(matrix: Tensor, x: Tensor) -> Tensor:
    """The matrix (..., N, N) times ``x`` (..., N, k)."""
    result = torch.zeros_like(x)
    for (start, end), panel in zip(spans(matrix), panels(matrix), strict=True):
        result[..., start:end, :] += panel @ x[..., :end, :]
        result[..., :start, :] += panel[..., :start].mT @ x[..., start:end, :]
    return result


def upper_median(matrix: Tensor) -> Tensor:
    """Median (...) of all N² entries; of an even count the upper of the middle two."""
    if not in_blocks(matrix):
        return -(-matrix).flatten(-2).median(dim=-1).values
    n = matrix.shape[-1]
    medians = [_upper_median(m) for m in matrix.reshape(-1, n, n)]
    return torch.stack(medians).view(matrix.shape[:-2])


def _upper_median(matrix: Tensor) -> Tensor:
    """By counting: only entries near the median of a sample are sorted."""
    diagonal = [matrix[a:b, a:b] for a, b in spans(matrix)]
    below = [matrix[a:b, :a] for a, b in spans(matrix)]  # where every entry counts twice
    rank = matrix.numel() // 2 + 1  # from 1
    size = sum(panel.numel() for panel in below)
    if size > 4 * _SAMPLE:
        step = size // (8 * _SAMPLE) + 1
        sample = torch.cat([panel[::8, ::step].flatten() for panel in below]).sort().values
        low = sample[int(len(sample) * (0.5 - _MARGIN))]
        high = sample[int(len(sample) * (0.5 + _MARGIN))]
        less = 2 * _count(below, low) + _count(diagonal, low)
        near, near_diagonal = (
            [panel[(panel >= low) & (panel <= high)] for panel in part]
            for part in (below, diagonal)
        )
        found = 2 * sum(map(len, near)) + sum(map(len, near_diagonal))
        if less < rank <= less + found:
            if low == high:
                return low
            below, diagonal, rank = near, near_diagonal, rank - less
    entries = [panel.flatten() for panel in (*below, *below, *diagonal)]
    return torch.cat(entries).kthvalue(rank).values


def _count(panels: list[Tensor], low: Tensor) -> int:
    return sum(int((panel < low).sum()) for panel in panels)


class Cholesky(NamedTuple):
    """Factor L of a symmetric matrix L Lᵀ.

    Attributes:
        lower: L (..., N, N).
        inverses: Inverse of each block on its diagonal; none of a matrix that is one.
        failed: Whether the matrix was not positive definite in this precision, (...).
    """

    lower: Tensor
    inverses: list[Tensor]
    failed: Tensor


def cholesky_(matrix: Tensor) -> Cholesky:
    """Factor a matrix (..., N, N) in its place; never raises."""
    if not in_blocks(matrix):
        factor, info = torch.linalg.cholesky_ex(matrix)
        return Cholesky(factor, [], info != 0)
    failed = torch.zeros(matrix.shape[:-2], dtype=torch.bool, device=matrix.device)
    inverses = []
    for start, end in spans(matrix):
        column = matrix[..., start:, start:end]
        if start:
            _subtract(column, matrix[..., start:, :start], matrix[..., start:end, :start].mT)
        factor, info = torch.linalg.cholesky_ex(matrix[..., start:end, start:end])
        identity = torch.eye(end - start, dtype=matrix.dtype, device=matrix.device)
        inverses.append(torch.linalg.solve_triangular(factor, identity, upper=False))
        matrix[..., start:end, start:end] = factor
        matrix[..., end:, start:end] = matrix[..., end:, start:end] @ inverses[-1].mT
        failed |= info != 0
    return Cholesky(matrix, inverses, failed)


def solve_(factor: Cholesky, x: Tensor) -> Tensor:
    """Solve L Lᵀ X = B for ``x`` (..., N, k), which holds B and then X."""
    lower, inverses, _ = factor
    if not inverses:
        return torch.cholesky_solve(x, lower)
    blocks = list(zip(spans(lower), inverses, strict=True))
    for (start, end), inverse in blocks:
        if start:
            _subtract(x[..., start:end, :], lower[..., start:end, :start], x[..., :start, :])
        x[..., start:end, :] = inverse @ x[..., start:end, :]
    for (start, end), inverse in reversed(blocks):
        if end < x.shape[-2]:
            _subtract(x[..., start:end, :], lower[..., end:, start:end].mT, x[..., end:, :])
        x[..., start:end, :] = inverse.mT @ x[..., start:end, :]
    return x


def _subtract(minuend: Tensor, a: Tensor, b: Tensor) -> None:
    """``minuend`` -= ``a`` @ ``b`` in place, without a copy of the product."""
    multiply = minuend.addmm_ if minuend.ndim == 2 else minuend.baddbmm_
    multiply(a, b, alpha=-1)
