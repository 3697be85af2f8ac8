"""The target branch: a copy of the online branch that follows it by an EMA."""

from __future__ import annotations

import copy

import torch
from lightly.models.utils import update_momentum
from torch import nn


def make_target(online: nn.Module) -> nn.Module:
    """Copy of the online module, weights included, that takes no gradient."""
    return copy.deepcopy(online).requires_grad_(False)


@torch.no_grad()
def update_target(online: nn.Module, target: nn.Module, momentum: float) -> None:
    """Move the target towards the online module, ``target = m target + (1 - m) online``.

    lightly's ``update_momentum`` moves parameters only; here the running statistics of batch
    normalisation move too, and counters are copied, so that the target is the online module at
    m = 0 and usable in eval mode at any time.

    Args:
        online: The trained module.
        target: Its copy from :func:`make_target`.
        momentum: m in [0, 1].
    """
    update_momentum(online, target, m=momentum)
    for own, other in zip(target.buffers(), online.buffers(), strict=True):
        if own.dtype.is_floating_point:
            own.lerp_(other, 1 - momentum)
        else:
            own.copy_(other)
