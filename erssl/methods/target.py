"""The target branch: a copy of the online branch that follows it by an EMA."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from typing_extensions import Self

from erssl.loss.state import at_least


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


class TargetBranch(LightningModule):
    """A module with a target branch: copies of online modules that follow them by an EMA.

    Attributes:
        channels_last: Whether images are kept in channels-last memory.
        compiled: Whether backbones are compiled.
    """

    channels_last: bool = False
    compiled: bool = False
    _with_target: tuple[str, ...] = ()

    @property
    def has_target(self) -> bool:
        """Whether there is a target branch with weights of its own."""
        return bool(self._with_target)

    @torch.no_grad()
    def target_branch(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Embeddings of the global views by the target branch.

        Best computed before the online branch, whose activations then are not held beside it.
        """
        if not self.has_target:
            raise RuntimeError("This method has no target branch; call add_target in __init__.")
        images = torch.cat(list(views))
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with self._target_precision(images):
            features = self.get_submodule("target_backbone")(images).flatten(start_dim=1)
            embeddings: Tensor = self.get_submodule("target_projection_head")(features)
        return list(embeddings.chunk(len(views)))

    def _target_precision(self, images: Tensor) -> AbstractContextManager[None]:
        """Let a float32 target compute in the half precision that the whole training is of."""
        if images.dtype not in (torch.float16, torch.bfloat16):
            return nullcontext()
        return torch.autocast(images.device.type, images.dtype)

    def slow_tensors(self) -> list[Tensor]:
        """What moves by small steps and is therefore kept in float32 at least: the target's."""
        targets = [self.get_submodule(f"target_{name}") for name in self._with_target]
        return [x for target in targets for x in (*target.parameters(), *target.buffers())]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Go to another device or precision; slow tensors to no half precision."""
        slow = {id(x): x for x in self.slow_tensors()}  # held, lest an id be given anew

        def move(x: Tensor) -> Tensor:
            return at_least(torch.float32, fn, x) if id(x) in slow else fn(x)

        return cast(Self, super()._apply(move, recurse))

    def add_target(self, *names: str) -> None:
        """Give the method a target branch: ``target_<name>``, a copy of each online module.

        Args:
            names: Modules of the branch; by default ``backbone`` and ``projection_head``.
        """
        self._with_target = names or ("backbone", "projection_head")
        for name in self._with_target:
            target = make_target(self.get_submodule(name))
            if name == "backbone" and self.compiled:
                target.compile()
            self.add_module(f"target_{name}", target)

    def move_target(self, momentum: float) -> None:
        """Move each part of the target branch towards its online module.

        Args:
            momentum: Share of the target that stays, in [0, 1].
        """
        for name in self._with_target:
            update_target(self.get_submodule(name), self.get_submodule(f"target_{name}"), momentum)

    def reset_target(self) -> None:
        """Make the target branch a copy of the online branch again."""
        self.move_target(0.0)
