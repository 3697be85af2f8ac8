"""k-means of rows that lie in files, a block at a time (Lloyd 1982)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from erssl.evaluation.rows import BLOCK, Rows, blocks

MOST_ITERATIONS, TOLERANCE = 300, 1e-4  # of scikit-learn's KMeans
_DRAWN, _DRAWN_A_CLUSTER = 20_000, 20  # rows that k-means++ chooses the first centres from


class Clusters(NamedTuple):
    """What k-means came to.

    Attributes:
        centres: (K, d), float64.
        inertia: Sum of squared distances of the rows to their centre.
        iterations: Passes over the rows.
    """

    centres: Tensor
    inertia: float
    iterations: int


def cluster(rows: Rows, clusters: int, starts: int, seed: int) -> Clusters:
    """The best of several runs of k-means on rows of unit length.

    The first centres of each run are chosen by k-means++ (scikit-learn's) from at most 20,000 rows,
    or 20 a cluster, which are drawn anew for it.

    Args:
        rows: Features (N, d), brought to unit length here.
        clusters: Number of clusters K.
        starts: Number of runs.
        seed: Of the draws.
    """
    from sklearn.cluster import kmeans_plusplus

    generator = torch.Generator().manual_seed(seed)
    count = min(len(rows), max(_DRAWN, _DRAWN_A_CLUSTER * clusters))
    best = None
    for start in range(starts):
        numbers = torch.randperm(len(rows), generator=generator)[:count].sort().values
        drawn = F.normalize(rows[numbers].float(), dim=1)
        first, _ = kmeans_plusplus(drawn.numpy(), clusters, random_state=(seed + start) % 2**32)
        run = lloyd(rows, torch.from_numpy(first).double())
        best = run if best is None or run.inertia < best.inertia else best
    assert best is not None  # starts is at least 1
    return best


def lloyd(rows: Rows, centres: Tensor, max_iter: int = MOST_ITERATIONS) -> Clusters:
    """Move centres to the mean of the rows that they are nearest to, until they stand still.

    That is where the squares of all moves come to 1e-4 of the features' mean variance, or no row
    changes its centre, as in scikit-learn. A centre without rows goes to the row that is farthest
    from its own.

    Args:
        rows: Features (N, d), brought to unit length here.
        centres: The first centres (K, d).
        max_iter: Passes at the most.
    """
    centres = centres.double()
    limit, before, inertia, passes = 0.0, None, 0.0, 0
    for passes in range(1, max_iter + 1):
        sums, counts = torch.zeros_like(centres), torch.zeros(len(centres), dtype=torch.float64)
        squares, labels = torch.zeros(centres.shape[1], dtype=torch.float64), []
        far = torch.empty(0), torch.empty(0, centres.shape[1])
        inertia = 0.0
        for unit, distances, nearest in _assigned(rows, centres):
            labels.append(nearest)
            sums.index_add_(0, nearest, unit.double())
            counts += nearest.bincount(minlength=len(centres))
            inertia += float(distances.sum(dtype=torch.float64))
            if passes == 1:
                squares += unit.square().sum(dim=0, dtype=torch.float64)
            far = _farthest(far, distances, unit, len(centres))
        if passes == 1:
            variance = squares / len(rows) - (sums.sum(dim=0) / len(rows)).square()
            limit = TOLERANCE * float(variance.mean())
        empty = (counts == 0).nonzero()[:, 0]
        moved = sums / counts.clamp_min(1)[:, None]
        moved[empty] = far[1][: len(empty)].double()
        shift = float((moved - centres).square().sum())
        now = torch.cat(labels)
        settled = before is not None and torch.equal(now, before)
        centres, before = moved, now
        if settled or shift <= limit:
            break
    return Clusters(centres, inertia, passes)


def nearest_centres(rows: Rows, centres: Tensor) -> Tensor:
    """Number (N,) of the centre that each row, at unit length, is nearest to."""
    return torch.cat([nearest for _, _, nearest in _assigned(rows, centres)])


def _assigned(rows: Rows, centres: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each block: rows (n, d) of unit length, squared distances (n,) and centres' numbers."""
    lengths = centres.square().sum(dim=1).float()
    narrow = centres.float()
    for block in blocks(rows, BLOCK):
        unit = F.normalize(block.float(), dim=1)
        least, nearest = (lengths - 2 * unit @ narrow.T).min(dim=1)
        yield unit, (least + unit.square().sum(dim=1)).clamp_min(0), nearest


def _farthest(
    far: tuple[Tensor, Tensor], distances: Tensor, unit: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """The ``count`` farthest rows so far and their distances, the farthest first."""
    best = distances.topk(min(count, len(distances)))
    if len(far[0]) == count and float(best.values[0]) <= float(far[0][-1]):
        return far
    values = torch.cat([far[0], best.values])
    kept = values.topk(min(count, len(values)))
    return kept.values, torch.cat([far[1], unit[best.indices]])[kept.indices]
