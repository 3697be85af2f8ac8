"""Readings of a backbone that need no labels, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erssl.entropy import alignment, effective_rank
from erssl.entropy.geometry import unit_rows
from erssl.entropy.spectrum import eigenspectrum_decay, lidar
from erssl.evaluation.clid import cluster_learnability, intrinsic_dimension
from erssl.evaluation.lens_quantities import (
    KAPPAS,
    KDE_BELOW,
    KNN_BELOW,
    below_uniform,
    entropy_and_reconstruction,
)

SPACES = ("features", "embedding")
KAPPA = KAPPAS[0]  # of I_ER: the ER paper's


@torch.no_grad()
def label_free_reading(views: Sequence[Tensor]) -> dict[str, float]:
    """Read what two views of the same images say without labels.

    - ``rankme``: :func:`erssl.entropy.effective_rank` of view 0, not normalised, as its paper has;
    - ``lidar``: :func:`erssl.entropy.spectrum.lidar` of both views, where the paper has 10 or more;
    - ``alpha_req``: :func:`erssl.entropy.spectrum.eigenspectrum_decay` of view 0;
    - ``cluster_learnability`` and ``intrinsic_dimension`` of view 0, the parts of CLID;
    - ``nats_below_uniform_kde`` and ``nats_below_uniform_knn``, ``alignment`` and ``i_er`` (at the
      ER paper's κ = 10) as the lens has them, on unit rows.

    Args:
        views: Two tensors (N, d), rows as they are, N of at least 4.

    Returns:
        Values by name; NaN where a row is not finite.
    """
    z0, z1 = (z if z.device.type == "mps" else z.double() for z in views)
    unit0, unit1 = unit_rows(z0), unit_rows(z1)
    return {
        **spectral_reading(views),
        **below_uniform(unit0, unit1),
        "alignment": float(alignment(unit0, unit1)),
        "i_er": float(sum(entropy_and_reconstruction(unit0, unit1, KAPPA))),
    }


def spectral_reading(views: Sequence[Tensor]) -> dict[str, float]:
    """The readings of :func:`label_free_reading` that the lens does not have while it trains."""
    exact = [z if z.device.type == "mps" else z.double() for z in views]
    first = exact[0]
    return {
        "rankme": float(effective_rank(first)),
        "lidar": float(lidar(torch.stack(exact, dim=1))),
        "alpha_req": float(eigenspectrum_decay(views[0])),  # whose type says what is rounding
        "cluster_learnability": cluster_learnability(first),
        "intrinsic_dimension": intrinsic_dimension(first),
    }


_BEST_AT_ONE = "alpha_req"
_BEST_LOW = "loss"
READINGS = (
    "rankme",
    "lidar",
    "alpha_req",
    "cluster_learnability",
    "intrinsic_dimension",
    KDE_BELOW,
    KNN_BELOW,
    "alignment",
    "i_er",
)


def goodness(name: str, value: float) -> float:
    """A reading turned so that more is better.

    α-ReQ is best at 1; a loss is best low; of all others more is better.

    Args:
        name: Name of the reading, with or without ``features_`` or ``embedding_`` before it.
        value: Its value.
    """
    if name.endswith(_BEST_AT_ONE):
        return -abs(value - 1)
    return -value if name.endswith(_BEST_LOW) else value


def better(name: str) -> str:
    """A sentence on which value of a reading is the best, as :func:`goodness` turns it."""
    if name.endswith(_BEST_AT_ONE):
        return f"The {name} nearest to 1 comes first."
    return f"The {'lowest' if name.endswith(_BEST_LOW) else 'highest'} {name} comes first."
