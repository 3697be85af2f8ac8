"""The entropy of embeddings in groups of rows, by estimates that have a gradient of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from erssl.entropy.kde import kde_entropy
from erssl.entropy.neighbours import CLOSE, NEIGHBOUR, knn_entropy
from erssl.loss._score import row_groups
from erssl.loss.distributed import gather_rows

DirectEntropy = Literal["kde", "knn"]
Estimate = Callable[[Tensor], Tensor]


def direct_estimate(kind: str, bandwidth: float | None, of_score: Sequence[str]) -> Estimate:
    """The estimate of a name, from unit rows (N, d) to a scalar in nats.

    Args:
        kind: ``"kde"``, of the kernel density, each row left out of its own; or ``"knn"``, of the
            third neighbour (Kozachenko-Leonenko), of the last where there are fewer.
        bandwidth: Bandwidth Δ of the kernel exp(z·z / Δ) of ``"kde"``, which is 1 / κ; ``None``
            for ``"knn"``.
        of_score: Names of the options that a score alone has which are not at their defaults.

    Raises:
        ValueError: If the name is none, or an option is not the estimate's.
    """
    if kind not in get_args(DirectEntropy):
        raise ValueError(f"The entropy must be None, 'kde' or 'knn' but is {kind!r}.")
    if of_score:
        raise ValueError(f"entropy={kind!r} has no score; leave {', '.join(of_score)} out.")
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
    return knn_entropy(z, min(NEIGHBOUR, len(z) - 1), CLOSE)
