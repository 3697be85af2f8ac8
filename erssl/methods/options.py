"""Keyword options that methods share, and what is refused of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypedDict

from torch import nn

from erssl.errors import ConfigError
from erssl.methods.optimizer import OptimizerOptions

Target = Literal["momentum", "shared"]


class TrainingOptions(TypedDict, total=False):
    """Keyword options that every method takes."""

    backbone: nn.Module | str | None
    optimizer: OptimizerOptions | None
    channels_last: bool
    compile: bool


class TargetOptions(TrainingOptions, total=False):
    """Keyword options of methods with a target branch that follows by an EMA."""

    momentum_start: float
    momentum_end: float


def check_queue(memory_bank_size: int | Sequence[int], projection_dim: int) -> None:
    """Refuse a queue whose rows are not of the embedding's dimension, with a ConfigError."""
    if not isinstance(memory_bank_size, int) and list(memory_bank_size)[1:] != [projection_dim]:
        raise ConfigError(
            f"method.memory_bank_size={list(memory_bank_size)} must be 0 or [n, d] with d the "
            f"projection_dim={projection_dim}."
        )


def check_loss_scale(loss_scale: float) -> None:
    """Refuse a factor of the loss that trains nothing, with a ConfigError."""
    if not 0 < loss_scale < math.inf:
        raise ConfigError(f"method.loss_scale must be above 0 but is {loss_scale}.")
