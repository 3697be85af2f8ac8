"""The part of a logistic regression that grows with the images: products, logits, residuals.

The solver sees numbers a class and gradients only. What they are sums over is held in memory, or
lies in files and is gone through a block at a time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from erssl.downstream.transfer.rotation import Rotation
from erssl.errors import DataError
from erssl.evaluation.rows import StoredRows
from erssl.limits import size

_WIDTH = 16  # MKL multiplies by 48 columns twice as fast as by 47
_BLOCK = 4096  # rows of files that are computed with at a time
_SMALL = 2**25  # numbers that are held in memory rather than in a file


class Logits(Protocol):
    """Logits (N, C) of all images at the solver's parameters, and along its direction.

    Attributes:
        count: Number N of images.
        dtype: In which all is computed.
        spread: Mean square (p,) of each rotated feature.
    """

    count: int
    dtype: torch.dtype
    spread: Tensor

    def stand(self, parameters: Tensor) -> None:
        """Compute the logits at parameters (p + 1, C) anew."""

    def differentiate(self) -> tuple[Tensor, Tensor]:
        """Gradient (p + 1, C) of the mean loss, and the mean (1, C) of p (1 - p)."""

    def largest(self) -> float:
        """The largest magnitude of a logit, once they have been differentiated at."""

    def look(self, direction: Tensor) -> None:
        """Compute how the logits change along a direction (p + 1, C)."""

    def slope(self, length: Tensor) -> Tensor:
        """Derivative of the mean loss along the direction after so much of it; one, or (1, C)."""

    def go(self, length: Tensor) -> None:
        """Follow the direction so far."""

    def kept(self) -> Any:
        """What a later call of ``foresee`` needs of the logits that stand now."""

    def foresee(self, parameters: Tensor, shares: Sequence[float], kept: Sequence[Any]) -> bool:
        """Stand at a sum of earlier parameters; whether the logits are computed anew for it."""

    def back(self) -> None:
        """Stand again where the last ``foresee`` came from."""

    def loss(self) -> float:
        """Sum of the cross-entropies, in float64."""


class HeldLogits:
    """All in memory; see :class:`Logits`."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        """Take rotated features (N, p) and labels, (N,) or zeros and ones (N, C)."""
        self.count, self.dtype = len(features), features.dtype
        self._features, self._labels = features, labels
        self._over = _over(labels)
        self.spread = features.square().mean(dim=0)
        self._logits = self._along = self._before = features.new_empty(0)

    def stand(self, parameters: Tensor) -> None:
        """Compute the logits anew."""
        self._logits = _times(self._features, parameters[:-1]) + parameters[-1]

    def differentiate(self) -> tuple[Tensor, Tensor]:
        """Give gradient and curvature."""
        chances = _chances(self._logits, self._labels)
        curvature = (chances - chances.square()).mean(dim=0, keepdim=True)
        residuals = _minus(chances, self._labels)
        products = _times(self._features.T, residuals)
        whole = torch.cat([products, residuals.sum(dim=0, keepdim=True)])
        return whole / len(residuals), curvature

    def largest(self) -> float:
        """The largest magnitude of a logit."""
        return float(self._logits.abs().max())

    def look(self, direction: Tensor) -> None:
        """Compute the change along a direction."""
        self._along = _times(self._features, direction[:-1]) + direction[-1]

    def slope(self, length: Tensor) -> Tensor:
        """Give the derivative along the direction."""
        chances = _chances(self._logits + length * self._along, self._labels)
        residuals = _minus(chances, self._labels)
        return (residuals * self._along).sum(dim=self._over, keepdim=True) / self.count

    def go(self, length: Tensor) -> None:
        """Follow the direction."""
        self._logits = self._logits + length * self._along

    def kept(self) -> Tensor:
        """The logits."""
        return self._logits

    def foresee(self, parameters: Tensor, shares: Sequence[float], kept: Sequence[Any]) -> bool:
        """Add earlier logits up, without a product."""
        self._before = self._logits
        self._logits = sum_of(shares, kept)
        return False

    def back(self) -> None:
        """Take the logits of before."""
        self._logits = self._before

    def loss(self) -> float:
        """Give the summed loss."""
        return _loss(self._logits, self._labels)


class StoredLogits:
    """Features in files, in the coordinates that they came in; see :class:`Logits`.

    Features are not rotated: parameters and gradients are, which is the same product. Logits and
    their change, (N, C) each, lie in two files without a name, which end with the process however
    it ends. Products are of blocks, in the solver's type; sums over blocks are in float64.
    """

    def __init__(
        self, rows: StoredRows, labels: Tensor, rotation: Rotation, classes: int, dtype: torch.dtype
    ) -> None:
        """Take features (N, d), labels, the solver's coordinates, the number of classes and type.

        Raises:
            DataError: If there is no room for the logits on the disk that the features lie on.
        """
        self.count, self.dtype = len(rows), dtype
        self._rows, self._labels = rows, labels
        self._centre, self._basis = rotation.centre.to(dtype), rotation.basis.to(dtype)
        self._over = _over(labels)
        self._logits, self._along = _scratch(2, self.count * classes, dtype, rows.folder)
        self._logits = self._logits.view(self.count, classes)
        self._along = self._along.view(self.count, classes)
        self._largest = 0.0
        squares = torch.zeros(self._basis.shape[1], dtype=torch.float64)
        for _, block in self._blocks():
            squares += (block @ self._basis).square().sum(dim=0, dtype=torch.float64)
        self.spread = (squares / self.count).to(dtype)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows and the centred features (n, d) of each block, in memory that is used again."""
        memory = torch.empty(min(_BLOCK, self.count), self._rows.shape[1], dtype=self.dtype)
        for rows in self._cuts():
            block = self._rows.read(rows.start, rows.stop, memory[: rows.stop - rows.start])
            yield rows, block.sub_(self._centre)

    def _cuts(self) -> Iterator[slice]:
        for start in range(0, self.count, _BLOCK):
            yield slice(start, min(start + _BLOCK, self.count))

    def _product(self, parameters: Tensor, into: Tensor) -> None:
        """Write features times parameters (p + 1, C) to a file."""
        weights = self._basis @ parameters[:-1]
        for rows, block in self._blocks():
            torch.add(_times(block, weights), parameters[-1], out=into[rows])

    def stand(self, parameters: Tensor) -> None:
        """Compute the logits anew."""
        self._product(parameters, self._logits)

    def differentiate(self) -> tuple[Tensor, Tensor]:
        """Give gradient and curvature."""
        classes = self._logits.shape[1]
        whole = torch.zeros(self._rows.shape[1] + 1, classes, dtype=torch.float64)
        curvature = torch.zeros(1, classes, dtype=torch.float64)
        self._largest = 0.0
        for rows, block in self._blocks():
            logits = self._logits[rows]
            self._largest = max(self._largest, float(logits.abs().max()))
            chances = _chances(logits, self._labels[rows])
            curvature += (chances - chances.square()).sum(dim=0, keepdim=True, dtype=torch.float64)
            residuals = _minus(chances, self._labels[rows])
            whole[:-1] += _times(block.T, residuals)
            whole[-1] += residuals.sum(dim=0, dtype=torch.float64)
        inner = self._basis.T @ (whole[:-1] / self.count).to(self.dtype)
        slopes = torch.cat([inner, (whole[-1:] / self.count).to(self.dtype)])
        return slopes, (curvature / self.count).to(self.dtype)

    def largest(self) -> float:
        """The largest magnitude of a logit."""
        return self._largest

    def look(self, direction: Tensor) -> None:
        """Compute the change along a direction."""
        self._product(direction, self._along)

    def slope(self, length: Tensor) -> Tensor:
        """Give the derivative along the direction."""
        total = torch.zeros_like(length, dtype=torch.float64)
        for rows in self._cuts():
            along = self._along[rows]
            chances = _chances(self._logits[rows] + length * along, self._labels[rows])
            residuals = _minus(chances, self._labels[rows])
            total += (residuals * along).sum(dim=self._over, keepdim=True, dtype=torch.float64)
        return (total / self.count).to(self.dtype)

    def go(self, length: Tensor) -> None:
        """Follow the direction."""
        for rows in self._cuts():
            self._logits[rows].add_(length * self._along[rows])

    def kept(self) -> None:
        """Nothing: a product is less than 5 GB a fit."""

    def foresee(self, parameters: Tensor, shares: Sequence[float], kept: Sequence[Any]) -> bool:
        """Compute the logits there, in the file of the change along a direction."""
        self._product(parameters, self._along)
        self._logits, self._along = self._along, self._logits
        return True

    def back(self) -> None:
        """Take the logits of before, which the other file holds."""
        self._logits, self._along = self._along, self._logits

    def loss(self) -> float:
        """Give the summed loss."""
        return sum(_loss(self._logits[rows], self._labels[rows]) for rows in self._cuts())


def sum_of(shares: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """Weighted sum of tensors."""
    total = shares[0] * tensors[0]
    for share, tensor in zip(shares[1:], tensors[1:], strict=True):
        total.add_(tensor, alpha=share)
    return total


def _over(labels: Tensor) -> tuple[int, ...]:
    """What sums go over: all numbers of softmax, the images of each one-vs-rest problem."""
    return (0, 1) if labels.ndim == 1 else (0,)


def _chances(logits: Tensor, labels: Tensor) -> Tensor:
    """Probabilities (n, C)."""
    return logits.softmax(dim=1) if labels.ndim == 1 else logits.sigmoid()


def _minus(chances: Tensor, labels: Tensor) -> Tensor:
    """Residuals (n, C): probabilities minus labels, in their place."""
    if labels.ndim == 1:
        chances.scatter_add_(1, labels[:, None], chances.new_full((len(chances), 1), -1.0))
    else:
        chances -= labels
    return chances


def _loss(logits: Tensor, labels: Tensor) -> float:
    logits = logits.double()
    if labels.ndim == 1:
        return float(F.cross_entropy(logits, labels, reduction="sum"))
    return float((F.softplus(logits) - labels * logits).sum())


def _times(a: Tensor, b: Tensor) -> Tensor:
    """Product (n, C) of matrices with columns added to a width that multiplies fast."""
    return (a @ F.pad(b, (0, -b.shape[1] % _WIDTH)))[:, : b.shape[1]]


def _scratch(count: int, numbers: int, dtype: torch.dtype, folder: Path | None) -> list[Tensor]:
    """Tensors of so many numbers each: in memory where they are small, else in unnamed files.

    Raises:
        DataError: If the disk has no room for them.
    """
    if numbers <= _SMALL:
        return [torch.zeros(numbers, dtype=dtype) for _ in range(count)]
    need = numbers * dtype.itemsize
    place = str(folder or tempfile.gettempdir())
    tensors = []
    try:
        for _ in range(count):
            with tempfile.NamedTemporaryFile(dir=place) as file:  # the mapping outlives the name
                # Without blocks of its own, a mapped file on a full disk would end the process.
                os.posix_fallocate(file.fileno(), 0, need)
                tensors.append(torch.from_file(file.name, shared=True, size=numbers, dtype=dtype))
    except OSError as error:
        raise DataError(
            f"Logistic regression needs {size(count * need)} in {place} for the logits of all "
            f"images ({error.strerror or error}); make room there."
        ) from error
    return tensors
