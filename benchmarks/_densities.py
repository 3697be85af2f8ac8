"""Densities on the sphere whose entropy is known: samples, and nats below the uniform density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from erssl.entropy import (
    sphere_log_area,
    vmf_entropy,
    vmf_log_normalizer,
    vmf_mean_resultant_length,
)

_REFERENCE_ROWS = 8192  # of a Monte Carlo mean of an exact log density


@dataclass(frozen=True)
class Density:
    """A density on S^{d-1} to draw from.

    Attributes:
        name: What it is.
        dim: Dimension d.
        draw: Rows (N, d) in float64, by N and a generator.
        nats: Its entropy less that of the uniform density: 0 or below.
    """

    name: str
    dim: int
    draw: Callable[[int, torch.Generator], Tensor]
    nats: float


def uniform(dim: int) -> Density:
    """The uniform density, of the highest entropy."""
    return Density("uniform", dim, lambda n, generator: _uniform_rows(n, dim, generator), 0.0)


def vmf(dim: int, kappa: float, name: str | None = None) -> Density:
    """A von Mises-Fisher density around the first axis; its entropy in closed form."""
    axis = torch.eye(dim, dtype=torch.float64)[:1]
    nats = float(vmf_entropy(dim, kappa)) - sphere_log_area(dim)

    def draw(n: int, generator: torch.Generator) -> Tensor:
        return vmf_rows(axis.expand(n, dim), kappa, generator)

    return Density(name or f"vMF({kappa:g})", dim, draw, nats)


def cone(dim: int, cosine: float) -> Density:
    """A vMF density whose samples have the mean cosine ``cosine`` with each other."""
    low, high = 0.0, 1e9
    for _ in range(64):  # A_d grows with kappa
        middle = 0.5 * (low + high)
        length = float(vmf_mean_resultant_length(dim, middle))
        low, high = (middle, high) if length < math.sqrt(cosine) else (low, middle)
    return vmf(dim, low, f"cone of cosine {cosine:g}")


def mixture(dim: int, count: int, kappa: float, seed: int = 0) -> Density:
    """``count`` vMF densities of one weight around random means.

    Its entropy is a Monte Carlo mean of its exact log density, good to the third digit.
    """
    generator = torch.Generator().manual_seed(seed)
    means = _uniform_rows(count, dim, generator)
    log_normalizer = float(vmf_log_normalizer(dim, kappa))

    def draw(n: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(count, (n,), generator=generator)
        return vmf_rows(means[which], kappa, generator)

    z = draw(_REFERENCE_ROWS, generator)
    log_density = (kappa * z @ means.T).logsumexp(dim=1) - math.log(count) + log_normalizer
    nats = -float(log_density.mean()) - sphere_log_area(dim)
    return Density(f"{count} clusters, vMF({kappa:g})", dim, draw, nats)


def subspace(dim: int, rank: int, outside: float = 0.0, seed: int = 0) -> Density:
    """Directions of a Gaussian with variance 1 in ``rank`` dimensions and ``outside`` in the rest.

    An angular central Gaussian density (Tyler 1987); with ``outside`` 0 it has no density, and an
    entropy of -inf.
    """
    scales = torch.full((dim,), math.sqrt(outside), dtype=torch.float64)
    scales[:rank] = 1

    def draw(n: int, generator: torch.Generator) -> Tensor:
        x = torch.randn(n, dim, generator=generator, dtype=torch.float64)
        return F.normalize(x * scales, dim=1)

    if outside == 0:
        return Density(f"rank {rank}", dim, draw, -math.inf)
    z = draw(_REFERENCE_ROWS, torch.Generator().manual_seed(seed))
    log_density = -0.5 * dim * (z / scales).square().sum(dim=1).log() - scales.log().sum()
    name = f"rank {rank}, {outside:g} outside"
    return Density(name, dim, draw, -float(log_density.mean()))


def vmf_rows(means: Tensor, kappa: float, generator: torch.Generator) -> Tensor:
    """A vMF sample around each row of ``means`` (N, d), by Wood's (1994) rejection."""
    n, dim = means.shape
    half = 0.5 * (dim - 1)
    b = (dim - 1) / (2 * kappa + math.sqrt(4 * kappa**2 + (dim - 1) ** 2))
    x = (1 - b) / (1 + b)
    c = kappa * x + (dim - 1) * math.log1p(-(x**2))
    cosine = torch.full((n,), math.nan, dtype=torch.float64)
    while bool((open_rows := cosine.isnan()).any()):
        count = int(open_rows.sum())
        gammas = torch._standard_gamma(torch.full((2, count), half).double(), generator=generator)
        beta = gammas[0] / gammas.sum(dim=0)
        w = (1 - (1 + b) * beta) / (1 - (1 - b) * beta)
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        accepted = kappa * w + (dim - 1) * torch.log1p(-x * w) - c >= u.log()
        cosine[open_rows.nonzero()[:, 0][accepted]] = w[accepted]
    tangent = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    tangent -= (tangent * means).sum(dim=1, keepdim=True) * means
    sine = (1 - cosine.square()).clamp_min(0).sqrt()
    return cosine[:, None] * means + sine[:, None] * F.normalize(tangent, dim=1)


def _uniform_rows(n: int, dim: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(n, dim, generator=generator, dtype=torch.float64), dim=1)
