"""Gathering over ranks such that W ranks equal one process on the whole batch.

Each rank computes the same global scalar from gathered per-sample quantities. lightly's
``gather`` sums gradients over ranks and DDP averages them, so that value and gradient are exact.
"""

from __future__ import annotations

import torch
from lightly.utils import dist
from torch import Tensor
from torch import distributed as torch_dist


def check_gather(gather_distributed: bool) -> None:
    """Refuse ``gather_distributed`` where torch has no distributed package."""
    if gather_distributed and not torch_dist.is_available():
        raise ValueError(
            "gather_distributed is True but torch.distributed is not available. Please set "
            "gather_distributed=False or install a torch version with distributed support."
        )


def gather_rows(x: Tensor, gather_distributed: bool) -> Tensor:
    """Rows (N, …) of every rank, (W N, …) in rank order, with gradient; ``x`` on one process."""
    if not gather_distributed or dist.world_size() == 1:
        return x
    return torch.cat(dist.gather(x.contiguous()))


def rank_rows(x: Tensor, gather_distributed: bool) -> Tensor:
    """Rows (N, …) of every rank, (W, N, …) in rank order, without gradient."""
    world = dist.world_size() if gather_distributed else 1
    rows = gather_rows(x.detach(), gather_distributed)
    return rows.view(world, -1, *rows.shape[1:])


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, without gradient; ``x`` on one process."""
    if dist.world_size() == 1:
        return x
    x = x.clone()
    torch_dist.all_reduce(x)
    return x


def rank_offset(x: Tensor, gather_distributed: bool) -> int:
    """Where this rank's rows begin among the gathered ones."""
    return dist.rank() * len(x) if gather_distributed else 0


def mean_over_ranks(values: Tensor, gather_distributed: bool) -> Tensor:
    """Mean of values (N,), as many on each rank, over all ranks, with gradient; a scalar."""
    return gather_rows(values.mean()[None], gather_distributed).mean()


def ranks_of(gather_distributed: bool) -> int:
    """Over how many ranks a batch is spread."""
    return dist.world_size() if gather_distributed else 1


def shared_draw(draw: Tensor, gather_distributed: bool) -> Tensor:
    """The first rank's random numbers on every rank that shares its batch."""
    if ranks_of(gather_distributed) > 1:
        torch_dist.broadcast(draw, src=0)
    return draw


def own_part(value: Tensor, gather_distributed: bool) -> Tensor:
    """A scalar of all ranks' rows whose gradient is known at this rank's rows alone.

    The gradient is multiplied by the number of ranks, as the gradient of gathered rows is summed
    over them: DDP, which takes the mean over ranks, then gives that of one process.
    """
    world = ranks_of(gather_distributed)
    return value if world == 1 else world * value - (world - 1) * value.detach()


def rank_columns(x: Tensor, gather_distributed: bool) -> Tensor:
    """Columns of which this rank takes care, where all ranks hold the same (d, S)."""
    world = ranks_of(gather_distributed)
    return x if world == 1 else x[:, dist.rank() :: world]
