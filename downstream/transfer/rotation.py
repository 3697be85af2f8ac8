"""An exact change of coordinates in which logistic regression is well conditioned."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from erssl.evaluation.rows import Rows, StoredRows, blocks, in_memory

_ROWS = 8192  # converted at a time


class Rotation(NamedTuple):
    """Coordinates x' = (x - centre) basis, in which an ℓ2-penalised linear model is the same model.

    The intercept is not penalised, so that it takes up any centre; an orthonormal basis leaves the
    norm of the weights as it is, and directions without data have weight 0 at the optimum. Neither
    changes the optimum, whatever the data that they were taken from. The principal axes make the
    Hessian nearly diagonal, which is what the solver builds on.

    Attributes:
        centre: Mean of the features (d,), float64 of float32's digits, so that both subtract it.
        basis: Orthonormal columns (d, p), p = min(N, d), to float32's accuracy or better; they span
            the rows of the centred features they were taken from.
    """

    centre: Tensor
    basis: Tensor

    @classmethod
    def of(cls, features: Rows) -> Rotation:
        """Principal axes of features (N, d); of fewer images than dimensions, of their span."""
        n, d = features.shape
        if isinstance(features, StoredRows):
            sums = [block.sum(dim=0, dtype=torch.float64) for block in blocks(features)]
            centre = (torch.stack(sums).sum(dim=0) / n).float().double()
        else:
            centre = features.mean(dim=0, dtype=torch.float64).float().double()
        if n < d:
            features = in_memory(features)
            # Squaring would lose the small singular values; QR keeps the span to the last digit.
            outer, inner = torch.linalg.qr((features.double() - centre).T)
            axes = _axes(inner.T, torch.zeros_like(centre[:n]))
            return cls(centre, outer @ _orthonormal(axes.double()))
        return cls(centre, _axes(features, centre))

    def exact(self) -> Rotation:
        """The same axes, orthonormal to float64's accuracy."""
        return Rotation(self.centre, _orthonormal(self.basis.double()))

    def to(self, device: torch.device | str) -> Rotation:
        """The same on a device."""
        return Rotation(self.centre.to(device), self.basis.to(device))

    def apply(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        """Features (N, d) in these coordinates (N, p)."""
        basis = self.basis.to(dtype)
        wide = torch.promote_types(features.dtype, dtype)
        moved = features.new_empty(len(features), basis.shape[1], dtype=dtype)
        for rows, out in zip(features.split(_ROWS), moved.split(_ROWS), strict=True):
            torch.mm((rows.to(wide) - self.centre.to(wide)).to(dtype), basis, out=out)
        return moved

    def inward(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Weights (C, d) and biases (C,) as parameters (p + 1, C) of the rotated model."""
        shifted = bias.double() + weight.double() @ self.centre
        return torch.cat([(weight.double() @ self.basis.double()).T, shifted[None]])

    def outward(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (C, d) and biases (C,), float64, of parameters (p + 1, C)."""
        weight = (self.basis.to(parameters.dtype) @ parameters[:-1]).T.double().contiguous()
        return weight, parameters[-1].double() - weight @ self.centre

    def gradient(self, gradient: Tensor) -> Tensor:
        """A gradient (p + 1, C) in the coordinates of the features (d + 1, C)."""
        basis, centre = self.basis.to(gradient.dtype), self.centre.to(gradient.dtype)
        weight = torch.addr(basis @ gradient[:-1], centre, gradient[-1])
        return torch.cat([weight, gradient[-1:]])


def _axes(features: Rows, centre: Tensor) -> Tensor:
    """Principal axes (d, d), float32."""
    d = features.shape[1]
    products = torch.zeros(d, d, dtype=torch.float32, device=features.device)
    for rows in blocks(features, _ROWS):
        wide = torch.promote_types(rows.dtype, torch.float32)
        part = (rows.to(wide) - centre.to(wide)).float()
        products.addmm_(part.T, part)
    axes: Tensor = torch.linalg.eigh(products).eigenvectors
    return axes


def _orthonormal(basis: Tensor) -> Tensor:
    """The nearest orthonormal basis of a nearly orthonormal one, by Newton and Schulz's steps."""
    for _ in range(2):  # an error of 1e-6 becomes 1e-12, then vanishes
        basis = 1.5 * basis - 0.5 * basis @ (basis.T @ basis)
    return basis
