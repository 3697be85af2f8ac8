"""The score at the embeddings of all ranks, whose cost the ranks share.

The ridge system of a view couples all rows: whoever solves it needs its factor, but not every
dimension of the right-hand side, each of which is solved for by itself. Every view is therefore
factored by some of the ranks only, each of which solves for its share of the dimensions; then
every rank is sent the scores at its own rows. One process would compute the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from lightly.utils import dist
from torch import Tensor
from torch import distributed as torch_dist

from erssl.entropy.score import Geometry, stein_score

_TOGETHER = 256  # rows up to which views share each product and factorisation


@torch.no_grad()
def own_scores(
    views: Sequence[Tensor],
    gather_distributed: bool,
    bandwidth: float | None = None,
    eta: float | Literal["auto"] = 0.01,
    geometry: Geometry = "euclidean",
) -> list[Tensor]:
    """:func:`erssl.entropy.stein_score` of each view's rows on all ranks, at this rank's rows.

    Args:
        views: This rank's unit rows (n, d) of every view; as many on each rank. Dimensions may
            differ between views.
        gather_distributed: Estimate from the rows of all ranks.
        bandwidth: See ``stein_score``.
        eta: See ``stein_score``.
        geometry: See ``stein_score``.

    Returns:
        Detached tensors (n, d), one a view.
    """
    views = [z.detach() for z in views]
    world = dist.world_size() if gather_distributed else 1
    if world == 1:
        if len({z.shape for z in views}) == 1 and len(views[0]) <= _TOGETHER:
            return list(stein_score(torch.stack(views), bandwidth, eta, geometry))
        return [stein_score(z, bandwidth, eta, geometry) for z in views]
    dims = [z.shape[1] for z in views]
    shares = [shares_of(rank, world, dims) for rank in range(world)]
    own = shares[dist.rank()]
    n = len(views[0])

    rows = _exchange(
        views[0],
        [[views[view] for view, _ in share] for share in shares],
        [[(n, dims[view]) for view, _ in own] for _ in range(world)],
    )
    solved = [
        stein_score(torch.cat([sent[k] for sent in rows]), bandwidth, eta, geometry, columns)
        for k, (_, columns) in enumerate(own)
    ]
    del rows
    received = _exchange(
        views[0],
        [[score[rank * n : (rank + 1) * n] for score in solved] for rank in range(world)],
        [[(n, columns.stop - columns.start) for _, columns in share] for share in shares],
    )
    scores = [torch.empty_like(z) for z in views]
    for share, sent in zip(shares, received, strict=True):
        for (view, columns), score in zip(share, sent, strict=True):
            scores[view][:, columns] = score
    return scores


def shares_of(rank: int, world: int, dims: Sequence[int]) -> list[tuple[int, slice]]:
    """Views that a rank factors, and the dimensions that it solves for in each.

    With no fewer ranks than views each rank has one view, else each view one rank.

    Args:
        rank: The rank.
        world: Number of ranks.
        dims: Dimension d of every view.
    """
    shares = []
    for view, dim in enumerate(dims):
        solvers = range(view, world, len(dims)) or (view % world,)
        if rank in solvers:
            place, count = solvers.index(rank), len(solvers)
            columns = slice(dim * place // count, dim * (place + 1) // count)
            if columns.start < columns.stop:
                shares.append((view, columns))
    return shares


def _exchange(
    like: Tensor, outgoing: list[list[Tensor]], shapes: list[list[tuple[int, int]]]
) -> list[list[Tensor]]:
    """Send ``outgoing[r]`` to each rank r; from each comes what has the ``shapes[r]``."""
    flat = [[part.reshape(-1) for part in parts] for parts in outgoing]
    send = torch.cat([like.new_empty(0), *(part for parts in flat for part in parts)])
    sizes = [[rows * columns for rows, columns in own] for own in shapes]
    received = like.new_empty(sum(map(sum, sizes)))
    torch_dist.all_to_all_single(
        received, send, [sum(own) for own in sizes], [sum(p.numel() for p in q) for q in flat]
    )
    parts = iter(received.split([size for own in sizes for size in own]))
    return [[next(parts).view(shape) for shape in own] for own in shapes]
