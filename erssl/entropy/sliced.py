"""Distances of the embeddings' one-dimensional projections from the standard Gaussian.

Of all densities with one covariance the Gaussian has the highest entropy, so what is near an
isotropic one has a high entropy. These distances say how near, not how many nats: 0 is best.
Embeddings are taken as they are; rows of unit norm go in times √d.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from erssl.entropy._opaque import is_followed
from erssl.entropy._slices import (
    SliceSum,
    check_position,
    epps_pulley,
    normal_quantiles,
    wasserstein,
)
from erssl.entropy.precision import full_precision

_KNOTS = 17  # of the integral over t in [0, 3] (LeJEPA, arXiv 2511.08544)
_SPACING = 3 / (_KNOTS - 1)


def random_directions(
    dim: int, count: int, generator: torch.Generator | None = None, like: Tensor | None = None
) -> Tensor:
    """Draw ``count`` uniform directions, as columns (d, count).

    Args:
        dim: Dimension d of the embeddings.
        count: How many.
        generator: Of random numbers; the default one where ``None``.
        like: A tensor whose device the directions get.
    """
    device = torch.device("cpu") if like is None else like.device
    directions = torch.randn(dim, count, generator=generator, device=device, dtype=torch.float32)
    # as rows in memory, by which sums over slices go a block of them at a time
    return F.normalize(directions, dim=0).T.contiguous().T


@full_precision
def sliced_epps_pulley(
    x: Tensor,
    directions: Tensor,
    total: Callable[[Tensor], Tensor] | None = None,
    world: int = 1,
) -> Tensor:
    r"""Mean over slices of the Epps-Pulley statistic against N(0, 1).

    .. math:: N \int_{-3}^{3} |\hat\varphi(t) - e^{-t^2/2}|^2 \, e^{-t^2/2} \, dt

    with :math:`\hat\varphi` the empirical characteristic function of a slice; by the trapezoid
    rule on 17 knots of [0, 3], doubled. Source: LeJEPA (arXiv 2511.08544), its SIGReg. Of rows
    drawn from N(0, I) its mean is :math:`\int (1 - e^{-t^2}) e^{-t^2/2} dt = 1.05`, not 0.

    Args:
        x: Embeddings (N, d).
        directions: Unit columns (d, S); see :func:`random_directions`.
        total: Where ranks share a batch: the sum of a tensor over them, without gradient. All must
            have N rows and the same directions. There is a first derivative only then.
        world: How many ranks.

    Returns:
        Scalar tensor of at least 0, at least in float32: that of the rows of all ranks. Its
        gradient is that at the rows given.

    Raises:
        ValueError: If shapes do not fit.
        RuntimeError: If ranks share a batch and ``torch.func`` or a compiler follows, or where the
            gradient is to be differentiated again.
    """
    _check_shapes(x, directions)
    directions = directions.to(x)
    plain = _plain_epps_pulley if total is None else _refuse_shared_batch
    if is_followed() or directions.requires_grad:
        return plain(x, directions)
    measure = partial(epps_pulley, spacing=_SPACING, count=_KNOTS - 1, total=total, world=world)
    value: Tensor = SliceSum.apply(x, directions, measure, plain)
    return value


def _refuse_shared_batch(x: Tensor, directions: Tensor) -> Tensor:
    """Say what cannot be had of rows whose other ranks are known by sums alone."""
    raise RuntimeError(
        "The Epps-Pulley statistic of a batch that ranks share (gather_distributed) has a first "
        "derivative only, and none by torch.func or in a compiled graph, for rows of other ranks "
        "are not held. Set gather_distributed=False, or leave this loss out of torch.compile and "
        "create_graph."
    )


def _plain_epps_pulley(x: Tensor, directions: Tensor) -> Tensor:
    slices = x @ directions
    total = x.new_zeros(())
    for knot in range(1, _KNOTS):
        t = knot * _SPACING
        target = math.exp(-0.5 * t**2)
        real = (t * slices).cos().mean(dim=0) - target
        imaginary = (t * slices).sin().mean(dim=0)
        ends = 0.5 if knot == _KNOTS - 1 else 1.0
        total = total + ends * target * (real.square() + imaginary.square()).mean()
    return 2 * _SPACING * len(x) * total


@full_precision
def sliced_wasserstein(x: Tensor, directions: Tensor, position: float = 0.5) -> Tensor:
    r"""Mean over slices of the squared 2-Wasserstein distance to N(0, 1).

    Sorted projections meet the Gaussian's quantiles at :math:`(i - a) / (N + 1 - 2a)`. VISReg
    (arXiv 2606.02572) has this term.

    Args:
        x: Embeddings (N, d).
        directions: Unit columns (d, S); see :func:`random_directions`.
        position: The a of the quantiles: ½ for :math:`(i - \tfrac12) / N`, 0 for VISReg's
            :math:`i / (N + 1)`.

    Returns:
        Scalar tensor of at least 0, at least in float32.

    Raises:
        ValueError: If shapes do not fit.

    Examples:
        >>> x = torch.tensor([[-0.6745], [0.6745]])  # the quartiles of N(0, 1)
        >>> round(sliced_wasserstein(x, torch.ones(1, 1)).item(), 6)
        0.0
    """
    _check_shapes(x, directions)
    check_position(position)
    directions = directions.to(x)
    quantiles = normal_quantiles(len(x), x, position)

    def plain(x: Tensor, directions: Tensor) -> Tensor:
        ordered = (x @ directions).sort(dim=0).values
        return (ordered - quantiles[:, None]).square().mean()

    if is_followed() or directions.requires_grad:
        return plain(x, directions)
    measure = partial(wasserstein, quantiles=quantiles)
    value: Tensor = SliceSum.apply(x, directions, measure, plain)
    return value


def _check_shapes(x: Tensor, directions: Tensor) -> None:
    if x.ndim != 2 or directions.ndim != 2 or x.shape[1] != len(directions) or len(x) < 1:
        raise ValueError(
            "Embeddings (N, d) and directions (d, S) must have one dimension d but have shapes "
            f"{tuple(x.shape)} and {tuple(directions.shape)}."
        )
