"""Symmetric matrices of which only the lower triangle is computed, by halving.

A Gram matrix needs half of the products that ``z @ z.T`` makes, and LAPACK's factorisation and
triangular solves run at little more than half the rate of a matrix product. Cut in two again and
again, a triangle is two smaller ones and a square, and nearly all of the work is products of large
squares. A matrix (..., N, N) here holds those squares and the small blocks that are left on the
diagonal; what lies above them is never read. On a GPU, which is not filled by small products,
nothing is cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_LEAF = 128  # rows that are not cut any more; 64 to 256 are as quick with AVX-512
_SAMPLE, _MARGIN = 2**16, 0.02  # of the bracket in which a median is looked for


def is_cut(matrix: Tensor) -> bool:
    """Whether a matrix is looked at in parts."""
    return matrix.device.type == "cpu"


def _halves(start: int, end: int) -> int | None:
    """Where the rows from ``start`` to ``end`` are cut, if they are."""
    return (start + end) // 2 if end - start > _LEAF else None


class Parts(NamedTuple):
    """Rows and columns of what is filled of a matrix.

    Attributes:
        squares: Below the diagonal; their mirror images are not filled.
        leaves: On the diagonal, filled on both sides of it.
    """

    squares: list[tuple[slice, slice]]
    leaves: list[slice]


def parts(matrix: Tensor) -> Parts:
    """The parts of a matrix (..., N, N)."""
    cuts = Parts([], [])

    def cut(start: int, end: int) -> None:
        middle = _halves(start, end) if is_cut(matrix) else None
        if middle is None:
            cuts.leaves.append(slice(start, end))
            return
        cuts.squares.append((slice(middle, end), slice(start, middle)))
        cut(start, middle)
        cut(middle, end)

    cut(0, matrix.shape[-1])
    return cuts


def filled(matrix: Tensor) -> Iterator[Tensor]:
    """Each part of a matrix (..., N, N), a view."""
    squares, leaves = parts(matrix)
    for rows, columns in squares:
        yield matrix[..., rows, columns]
    for rows in leaves:
        yield matrix[..., rows, rows]


def gram(z: Tensor) -> Tensor:
    """Products (..., N, N) of all pairs of rows of ``z`` (..., N, d)."""
    products = z.new_empty(*z.shape[:-1], z.shape[-2])
    squares, leaves = parts(products)
    for rows, columns in (*squares, *zip(leaves, leaves, strict=True)):
        out = products[..., rows, columns]
        torch.matmul(z[..., rows, :], z[..., columns, :].mT, out=out)
    return products


def row_sums(matrix: Tensor) -> Tensor:
    """Sum (..., N) of each row."""
    sums = matrix.new_zeros(matrix.shape[:-1])
    squares, leaves = parts(matrix)
    for rows, columns in squares:
        square = matrix[..., rows, columns]
        sums[..., rows] += square.sum(dim=-1)
        sums[..., columns] += square.sum(dim=-2)
    for rows in leaves:
        sums[..., rows] += matrix[..., rows, rows].sum(dim=-1)
    return sums


def product(matrix: Tensor, x: Tensor) -> Tensor:
    """The matrix (..., N, N) times ``x`` (..., N, k)."""
    result = torch.zeros_like(x)
    squares, leaves = parts(matrix)
    for rows, columns in squares:
        square = matrix[..., rows, columns]
        _add(result[..., rows, :], square, x[..., columns, :])
        _add(result[..., columns, :], square.mT, x[..., rows, :])
    for rows in leaves:
        _add(result[..., rows, :], matrix[..., rows, rows], x[..., rows, :])
    return result


def upper_median(matrix: Tensor) -> Tensor:
    """Median (...) of all N² entries; of an even count the upper of the middle two."""
    if not is_cut(matrix):
        return -(-matrix).flatten(-2).median(dim=-1).values
    n = matrix.shape[-1]
    if n * n <= 8 * _SAMPLE:
        return _upper_median(matrix)
    medians = [_upper_median(m) for m in matrix.reshape(-1, n, n)]
    return torch.stack(medians).view(matrix.shape[:-2])


def _upper_median(matrix: Tensor) -> Tensor:
    """Of one large matrix by counting: only entries near the median of a sample are sorted."""
    squares, leaves = parts(matrix)
    # below the diagonal every entry counts twice
    below = [matrix[..., rows, columns] for rows, columns in squares]
    diagonal = [matrix[..., rows, rows] for rows in leaves]
    n = matrix.shape[-1]
    rank = n * n // 2 + 1  # from 1
    if n * n > 8 * _SAMPLE:
        size = sum(part.numel() for part in below)
        step = size // (8 * _SAMPLE) + 1
        sample = torch.cat([part[::8, ::step].flatten() for part in below]).sort().values
        low = sample[int(len(sample) * (0.5 - _MARGIN))]
        high = sample[int(len(sample) * (0.5 + _MARGIN))]
        less = 2 * _count(below, low) + _count(diagonal, low)
        near, near_diagonal = _between(below, low, high), _between(diagonal, low, high)
        between = 2 * sum(map(len, near)) + sum(map(len, near_diagonal))
        if less < rank <= less + between:
            if low == high:
                return low
            below, diagonal, rank = near, near_diagonal, rank - less
    twice = [*below, *below, *diagonal]
    entries = twice if twice[0].ndim == 1 else [part.flatten(-2) for part in twice]
    return torch.cat(entries, dim=-1).kthvalue(rank, dim=-1).values


def _count(parts: list[Tensor], low: Tensor) -> int:
    return sum(int((part < low).sum()) for part in parts)


def _between(parts: list[Tensor], low: Tensor, high: Tensor) -> list[Tensor]:
    return [part[(part >= low) & (part <= high)] for part in parts]


class Cholesky(NamedTuple):
    """Factor L of a symmetric matrix L Lᵀ.

    Attributes:
        lower: L (..., N, N).
        inverses: Inverse of each leaf on its diagonal, by its first row; none of a matrix that is
            not cut.
        failed: Whether the matrix was not positive definite in this precision, (...).
    """

    lower: Tensor
    inverses: dict[int, Tensor]
    failed: Tensor


def cholesky_(matrix: Tensor) -> Cholesky:
    """Factor a matrix (..., N, N) in its place; never raises."""
    if not is_cut(matrix):
        factor, info = torch.linalg.cholesky_ex(matrix)
        return Cholesky(factor, {}, info != 0)
    failed = torch.zeros(matrix.shape[:-2], dtype=torch.bool, device=matrix.device)
    factor = Cholesky(matrix, {}, failed)
    _factor(factor, 0, matrix.shape[-1])
    return factor


def solve_(factor: Cholesky, x: Tensor) -> Tensor:
    """Solve L Lᵀ X = B for ``x`` (..., N, k), which holds B and then X."""
    if not factor.inverses:
        return torch.cholesky_solve(x, factor.lower)
    if len(factor.inverses) == 1 and x.shape[-1] > x.shape[-2]:  # one product in place of two
        (inverse,) = factor.inverses.values()
        return x.copy_((inverse.mT @ inverse) @ x)
    _solve_lower(factor, x, 0, x.shape[-2])
    _solve_upper(factor, x, 0, x.shape[-2])
    return x


def _factor(factor: Cholesky, start: int, end: int) -> None:
    a, middle = factor.lower, _halves(start, end)
    if middle is None:
        leaf = a[..., start:end, start:end]
        lower, info = torch.linalg.cholesky_ex(leaf)
        identity = torch.eye(end - start, dtype=a.dtype, device=a.device)
        factor.inverses[start] = torch.linalg.solve_triangular(lower, identity, upper=False)
        leaf.copy_(lower)
        factor.failed.logical_or_(info != 0)
        return
    _factor(factor, start, middle)
    square = a[..., middle:end, start:middle]
    _solve_lower(factor, square.mT, start, middle, start)  # L21 L11ᵀ = A21
    _subtract_gram(a, square, middle, end)
    _factor(factor, middle, end)


def _subtract_gram(a: Tensor, z: Tensor, start: int, end: int) -> None:
    """Rows and columns from ``start`` to ``end`` of ``a``, less all products of the rows of z."""
    middle = _halves(start, end)
    if middle is None:
        _add(a[..., start:end, start:end], z, z.mT, -1)
        return
    first, second = z[..., : middle - start, :], z[..., middle - start :, :]
    _add(a[..., middle:end, start:middle], second, first.mT, -1)
    _subtract_gram(a, first, start, middle)
    _subtract_gram(a, second, middle, end)


def _solve_lower(factor: Cholesky, x: Tensor, start: int, end: int, first: int = 0) -> None:
    """L X = B in place, from row ``start`` to ``end`` of L; row ``first`` is that of x's first."""
    rows, middle = slice(start - first, end - first), _halves(start, end)
    if middle is None:
        x[..., rows, :] = factor.inverses[start] @ x[..., rows, :]
        return
    _solve_lower(factor, x, start, middle, first)
    upper, lower = slice(start - first, middle - first), slice(middle - first, end - first)
    _add(x[..., lower, :], factor.lower[..., middle:end, start:middle], x[..., upper, :], -1)
    _solve_lower(factor, x, middle, end, first)


def _solve_upper(factor: Cholesky, x: Tensor, start: int, end: int) -> None:
    """Lᵀ X = B in place, from row ``start`` to ``end``."""
    middle = _halves(start, end)
    if middle is None:
        x[..., start:end, :] = factor.inverses[start].mT @ x[..., start:end, :]
        return
    _solve_upper(factor, x, middle, end)
    square = factor.lower[..., middle:end, start:middle]
    _add(x[..., start:middle, :], square.mT, x[..., middle:end, :], -1)
    _solve_upper(factor, x, start, middle)


def _add(total: Tensor, a: Tensor, b: Tensor, alpha: float = 1) -> None:
    """``total`` += alpha ``a`` @ ``b`` in place, without a copy of the product."""
    multiply = total.addmm_ if total.ndim == 2 else total.baddbmm_
    multiply(a, b, alpha=alpha)
