"""The score at the embeddings of all ranks: in groups of rows, at a cost that the ranks share.

Each group of rows has a density, a kernel and a ridge system of its own. A group that lies within
one rank is solved there, and nothing is sent. The system of a group that several ranks hold couples
all of its rows: whoever solves it needs its factor, but not every dimension of the right-hand side,
each of which is solved for by itself. Such a group is sent to one rank, or where there are fewer
systems than ranks to several, each of which solves for its share of the dimensions; then every rank
is sent the scores at its own rows. One process would compute the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import torch
from lightly.utils import dist
from torch import Tensor
from torch import distributed as torch_dist

from erssl.entropy.score import stein_score

_TOGETHER = 256  # rows up to which views share each product and factorisation
_AT_ONCE = 1024  # rows of a batch of groups: its temporary tensors stay small


class Part(NamedTuple):
    """What one rank solves for of one view.

    Attributes:
        view: Number of the view.
        rows: Rows of the group, counted over all ranks.
        columns: Dimensions.
    """

    view: int
    rows: slice
    columns: slice

    def held_by(self, rank: int, n: int) -> slice:
        """Rows of the group that a rank of n rows holds, counted from the rank's first."""
        start, stop = (min(max(end - rank * n, 0), n) for end in (self.rows.start, self.rows.stop))
        return slice(start, stop)

    def count_of(self, rank: int, n: int) -> int:
        """How many rows of the group a rank of n rows holds."""
        held = range(n)[self.held_by(rank, n)]
        return len(held)


@torch.no_grad()
def own_scores(
    views: Sequence[Tensor],
    gather_distributed: bool,
    score_rows: int | None = None,
    score: Callable[..., Tensor] = stein_score,
) -> list[Tensor]:
    """Scores of each view's rows, estimated in groups of the rows on all ranks, at this rank's.

    Args:
        views: This rank's unit rows (n, d) of every view; as many on each rank. Dimensions may
            differ between views.
        gather_distributed: Estimate from the rows of all ranks, in rank order.
        score_rows: Rows of a group, see :func:`row_groups`; ``None`` for one group.
        score: :func:`erssl.entropy.stein_score`, with its options bound.

    Returns:
        Detached tensors (n, d), one a view.
    """
    views = [z.detach() for z in views]
    n = len(views[0])
    world, rank = (dist.world_size(), dist.rank()) if gather_distributed else (1, 0)
    groups = row_groups(world * n, score_rows)
    if all(group.start // n == (group.stop - 1) // n for group in groups):
        sizes = [g.stop - g.start for g in groups if g.start // n == rank]
        if len({z.shape for z in views}) == 1 and n <= _TOGETHER:
            return list(_in_groups(torch.stack(views), sizes, score))
        return [_in_groups(z[None], sizes, score)[0] for z in views]
    shares = shares_of(world, n, [z.shape[1] for z in views], groups)
    return _shared_scores(views, shares, score)


def row_groups(n: int, score_rows: int | None) -> list[slice]:
    """N rows in order as ⌈N / score_rows⌉ groups of nearly equal size, the larger ones first.

    No group is of one row, in which nothing says how its density falls: then there is one group
    less. A single row is a group all the same.

    Args:
        n: Number of rows N.
        score_rows: Rows of a group at most, of at least 2; ``None`` for one group.
    """
    count = 1 if score_rows is None else max(1, min(-(-n // score_rows), n // 2))
    small, larger = divmod(n, count)
    bounds = [group * small + min(group, larger) for group in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _in_groups(z: Tensor, sizes: list[int], score: Callable[..., Tensor]) -> Tensor:
    """Scores of (V, n, d) rows that lie in groups of the given sizes, of which there are few."""
    if len(sizes) == 1:
        return score(z) if len(z) > 1 else score(z[0])[None]
    scores = torch.empty_like(z)
    start = 0
    for size, alike in groupby(sizes):
        count, at_once = len(list(alike)), max(1, _AT_ONCE // (size * len(z)))
        for first in range(0, count, at_once):
            stop = start + size * min(at_once, count - first)
            batch = z[:, start:stop].unflatten(1, (-1, size))
            # solved systems lie column by column on a GPU, so that no view of them has this shape
            scores[:, start:stop] = score(batch.flatten(0, 1)).reshape(z[:, start:stop].shape)
            start = stop
    return scores


def shares_of(world: int, n: int, dims: Sequence[int], groups: Sequence[slice]) -> list[list[Part]]:
    """What each rank solves for.

    A group goes to the rank of its middle row where there are no fewer groups than ranks. Else
    each rank has one system, or where there are fewer systems than ranks, each system some ranks.

    Args:
        world: Number of ranks.
        n: Rows of each rank.
        dims: Dimension d of every view.
        groups: Rows of each group, counted over all ranks.
    """
    shares: list[list[Part]] = [[] for _ in range(world)]
    systems = [(view, rows) for view in range(len(dims)) for rows in groups]
    for number, (view, rows) in enumerate(systems):
        if len(groups) >= world:
            solvers: Sequence[int] = [(rows.start + rows.stop - 1) // 2 // n]
        else:
            solvers = range(number, world, len(systems)) or [number % world]
        bounds = [dims[view] * place // len(solvers) for place in range(len(solvers) + 1)]
        for rank, (start, stop) in zip(solvers, pairwise(bounds), strict=True):
            if start < stop:
                shares[rank].append(Part(view, rows, slice(start, stop)))
    return shares


def _shared_scores(
    views: list[Tensor], shares: list[list[Part]], score: Callable[..., Tensor]
) -> list[Tensor]:
    """Send rows to where their groups are solved, and the scores back."""
    n, rank, world = len(views[0]), dist.rank(), len(shares)
    own = shares[rank]
    rows = _exchange(
        views[0],
        [[views[p.view][p.held_by(rank, n)] for p in share] for share in shares],
        [[(p.count_of(r, n), views[p.view].shape[1]) for p in own] for r in range(world)],
    )
    solved = _solved([torch.cat([sent[k] for sent in rows]) for k in range(len(own))], own, score)
    del rows
    received = _exchange(
        views[0],
        [_pieces(solved, own, receiver, n) for receiver in range(world)],
        [[(p.count_of(rank, n), p.columns.stop - p.columns.start) for p in s] for s in shares],
    )
    scores = [torch.empty_like(z) for z in views]
    for share, sent in zip(shares, received, strict=True):
        for part, piece in zip(share, sent, strict=True):
            scores[part.view][part.held_by(rank, n), part.columns] = piece
    return scores


def _solved(rows: list[Tensor], parts: list[Part], score: Callable[..., Tensor]) -> list[Tensor]:
    """Scores of each part, those of small groups of one shape in batches."""
    kinds: dict[object, list[int]] = {}
    for number, (z, part) in enumerate(zip(rows, parts, strict=True)):
        alone = number if len(z) > _TOGETHER else None
        kinds.setdefault((z.shape, part.columns.start, part.columns.stop, alone), []).append(number)
    solved = list(rows)
    for alike in kinds.values():
        at_once = max(1, _AT_ONCE // len(rows[alike[0]]))
        for first in range(0, len(alike), at_once):
            batch = alike[first : first + at_once]
            z = torch.stack([rows[number] for number in batch]) if batch[1:] else rows[batch[0]]
            scores = score(z, columns=parts[batch[0]].columns)
            for number, one in zip(batch, scores if batch[1:] else [scores], strict=True):
                solved[number] = one
    return solved


def _pieces(solved: list[Tensor], parts: list[Part], rank: int, n: int) -> list[Tensor]:
    """Of each part's scores, those at the rows that a rank holds."""
    pieces = []
    for score, part in zip(solved, parts, strict=True):
        before = max(rank * n - part.rows.start, 0)
        pieces.append(score[before : before + part.count_of(rank, n)])
    return pieces


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
