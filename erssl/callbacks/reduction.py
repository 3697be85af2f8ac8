"""Gradients of several processes, summed in one order wherever a process pool has put them."""

from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

# Annotations are values here: DDP looks at those of a hook.
_ANY_ORDER = 2  # processes whose sum does not depend on the order


class RankOrderedGradients(Callback):
    """Let the mean gradient of three or more processes on CPUs be the same bits after resuming.

    DDP arranges gradients anew after a process's first step, and a ring of processes begins to add
    at another one for each part of a buffer: a run that goes on would round its first step in
    another way than one that was left alone. On GPUs, whose bits are not repeatable anyway,
    nothing is changed.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of DDP's own summation."""
        model = trainer.strategy.model
        wrapped = isinstance(model, DistributedDataParallel)
        if wrapped and trainer.world_size > _ANY_ORDER and pl_module.device.type == "cpu":
            model.register_comm_hook(None, mean_in_rank_order)  # type: ignore[union-attr, operator]


def mean_in_rank_order(
    state: Any,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> Future[Tensor]:
    """Mean of a bucket over all processes, added in the order of their ranks.

    Args:
        state: Nothing.
        bucket: Gradients of this process, side by side.
    """
    own = bucket.buffer()
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]

    def mean(_: Any) -> Tensor:
        total = parts[0]
        for part in parts[1:]:
            total += part
        return total.div_(len(parts))

    work: Any = dist.all_gather(parts, own, async_op=True)
    gathered: Future[Any] = work.get_future()
    return gathered.then(mean)
