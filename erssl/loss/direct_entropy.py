"""The entropy of embeddings in groups of rows, by estimates that have a gradient of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from erssl.entropy.kde import kde_entropy
from erssl.entropy.neighbours import knn_entropy
from erssl.loss._score import row_groups
from erssl.loss.distributed import gather_rows

DirectEntropy = Literal["kde", "knn"]
Estimate = Callable[[Tensor], Tensor]
_NEIGHBOUR = 3  # erssl.entropy.knn_entropy's
_CLOSEST = 1e-8  # distance that copies count as, KoLeo's in DINOv2


def direct_estimate(kind: str, bandwidth: float | None, is_plain: bool) -> Estimate:
    """The estimate of a name, from unit rows (N, d) to a scalar in nats.

    Args:
        kind: ``"kde"``, of the kernel density, each row left out of its own; or ``"knn"``, of the
            third neighbour (Kozachenko-Leonenko), of the last where there are fewer.
        bandwidth: Bandwidth Δ of the kernel exp(z·z / Δ) of ``"kde"``, which is 1 / κ; ``None``
            for ``"knn"``.
        is_plain: Whether the options that a score alone has are at their default.

    Raises:
        ValueError: If the name is none, or an option is not the estimate's.
    """
    if kind not in ("kde", "knn"):
        raise ValueError(f"The entropy must be None, 'kde' or 'knn' but is {kind!r}.")
    if not is_plain:
        raise ValueError(
            f"entropy={kind!r} has no score; leave eta, geometry, shrink_to, bandwidth_scale and "
            "kernel, which are a score's, at the defaults of MVEBLoss."
        )
    if kind == "knn":
        if bandwidth is not None:
            raise ValueError(f"entropy='knn' has no kernel; leave bandwidth={bandwidth} out.")
        return _third_neighbour
    if bandwidth is None:
        raise ValueError(
            "entropy='kde' needs a number for bandwidth, such as 0.1 for the ER paper's κ = 10."
        )
    return partial(kde_entropy, kappa=1 / bandwidth)


def entropy_in_groups(
    z: Tensor, estimate: Estimate, gather_distributed: bool, score_rows: int | None
) -> Tensor:
    """Mean of an estimate over groups of rows, each weighed by how many it has.

    Args:
        z: This rank's unit rows (n, d).
        estimate: Of a group.
        gather_distributed: Take the rows of all ranks, in rank order.
        score_rows: Rows of a group, see :func:`erssl.loss._score.row_groups`.

    Returns:
        Scalar tensor, which on every rank is that of all rows.

    Raises:
        ValueError: If there is one row alone.
    """
    rows = gather_rows(z, gather_distributed)
    if len(rows) < 2:
        raise ValueError(
            "An entropy by a kernel density or by neighbours compares rows, and there is one "
            "alone; give at least 2, or entropy=None."
        )
    groups = [rows[group] for group in row_groups(len(rows), score_rows)]
    return torch.stack([len(some) / len(rows) * estimate(some) for some in groups]).sum()


def _third_neighbour(z: Tensor) -> Tensor:
    return knn_entropy(z, min(_NEIGHBOUR, len(z) - 1), _CLOSEST)
