"""Means over an epoch that are half done, which Lightning's own checkpoints leave out."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor

Sums = dict[str, tuple[Tensor, Tensor]]


def sums_so_far(trainer: Trainer) -> list[Sums]:
    """Sum and number of images of each metric that is averaged over the epoch, by process.

    Every process has to call it.
    """
    metrics = trainer.fit_loop.epoch_loop._results.items()
    own: Sums = {
        name: (m.value.detach().cpu().clone(), m.cumulated_batch_size.detach().cpu().clone())
        for name, m in metrics
        if m.is_tensor and m.meta.on_epoch and m.meta.is_mean_reduction
    }
    if trainer.world_size == 1:
        return [own]
    everyone: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everyone, own)
    return everyone


def add_sums(trainer: Trainer, saved: list[Sums]) -> None:
    """Put what was summed before in front of what this part of the epoch has summed.

    Args:
        trainer: After the first step that logged.
        saved: What :func:`sums_so_far` gave; with another number of processes, the first takes all.
    """
    rank, world = trainer.global_rank, trainer.world_size
    own = saved if rank == 0 else []
    if len(saved) == world:
        own = [saved[rank]]
    metrics = trainer.fit_loop.epoch_loop._results
    for sums in own:
        for name, (value, count) in sums.items():
            if name in metrics:
                metric = metrics[name]
                metric.value = value.to(metric.value) + metric.value
                metric.cumulated_batch_size = count.to(metric.value.device) + (
                    metric.cumulated_batch_size
                )
