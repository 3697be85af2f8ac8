"""The target branch: a copy of the online branch that follows it by an EMA."""

from __future__ import annotations

import copy

import torch
from torch import nn


def make_target(online: nn.Module) -> nn.Module:
    """Copy of the online module, weights included, that takes no gradient."""
    return copy.deepcopy(online).requires_grad_(False)


@torch.no_grad()
def update_target(online: nn.Module, target: nn.Module, momentum: float) -> None:
    """Move the target towards the online module, ``target = m target + (1 - m) online``.

    lightly's ``update_momentum`` moves parameters only; here the running statistics of batch
    normalisation move too, and counters are copied, so that the target is the online module at
    m = 0 and usable in eval mode at any time. All tensors move at once, read and written once.
    The target is of float32 where the online module is of half precision, which would round most
    of its steps to none.

    Args:
        online: The trained module.
        target: Its copy from :func:`make_target`.
        momentum: m in [0, 1].
    """
    own = [*target.parameters(), *target.buffers()]
    other = [*online.parameters(), *online.buffers()]
    pairs = list(zip(own, other, strict=True))
    moving = [(t, o) for t, o in pairs if t.is_floating_point()]
    counters = [(t, o) for t, o in pairs if not t.is_floating_point()]
    if moving:  # torch takes no empty lists, which an identity in place of a head gives
        torch._foreach_lerp_(
            [t for t, _ in moving], [o.to(t.dtype) for t, o in moving], 1 - momentum
        )
    if counters:
        torch._foreach_copy_([t for t, _ in counters], [o for _, o in counters])
