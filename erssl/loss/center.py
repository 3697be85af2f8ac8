"""The centre of DINO's targets, which moves once an optimiser step."""

from __future__ import annotations

from typing import Any

import torch
from lightly.loss import DINOLoss
from lightly.models.modules.center import center_momentum
from torch import Tensor

from erssl.loss.distributed import sum_over_ranks
from erssl.loss.state import StepState


class MovingCenter(StepState):
    """Moving mean of outputs (N, K) over the batches of all ranks, as lightly's ``Center``."""

    center: Tensor

    def __init__(self, output_dim: int, momentum: float) -> None:
        """Begin at 0.

        Args:
            output_dim: Number K of outputs.
            momentum: Share of the centre that a step leaves.
        """
        super().__init__()
        self.momentum = momentum
        self.add_state("center", torch.zeros(1, output_dim))

    @property
    def value(self) -> Tensor:
        """The centre (1, K)."""
        return self.center

    def update(self, x: Tensor) -> None:
        """Collect the mean of outputs (N, K)."""
        self.collect(**sum_and_count(x))

    def move(self, collected: dict[str, Tensor]) -> None:
        """Move towards the mean of the step."""
        mean = mean_of_step(**collected).to(self.center)
        self.center = center_momentum(self.center, mean[None], self.momentum)


class SteadyDINOLoss(DINOLoss, StepState):
    """lightly's ``DINOLoss``, whose centre moves with each call, by a :class:`StepState`'s."""

    center: Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take lightly's options."""
        super().__init__(*args, **options)
        center = self.center
        del self.center  # a buffer
        self.add_state("center", center)

    def update_center(self, teacher_out: Tensor) -> None:
        """Collect the mean of outputs (V, N, K)."""
        self.collect(**sum_and_count(teacher_out.flatten(end_dim=1)))

    def move(self, collected: dict[str, Tensor]) -> None:
        """Move towards the mean of the step."""
        mean = mean_of_step(**collected).to(self.center)
        self.center = center_momentum(self.center, mean[None, None], self.center_momentum)


def sum_and_count(x: Tensor) -> dict[str, Tensor]:
    """What :func:`mean_of_step` needs of rows (N, K)."""
    return {"total": x.sum(dim=0), "count": x.new_full((1,), len(x))}


def mean_of_step(total: Tensor, count: Tensor) -> Tensor:
    """Mean (K,) of the rows that a step has seen on all ranks."""
    total, count = sum_over_ranks(torch.cat([total, count])).split([len(total), 1])
    return total / count
