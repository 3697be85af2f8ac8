"""State that a loss or a method moves: once an optimiser step, in float32 or better, a rank's own.

A centre, a queue or a moment is no parameter. Nor is it one of torch's buffers, which would take
the precision of a network (in bfloat16 a mean of momentum 0.9 ceases to move) and which torch's
DistributedDataParallel overwrites with those of the first rank. It is kept in ``state_dict`` and
goes where the module goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed

_PENDING = "pending_"  # before the names of what a step under way has given, in state_dict


class StepState(nn.Module):
    """Base of what holds such state.

    ``forward`` calls :meth:`collect`. By itself that moves the state at once, as losses do
    elsewhere. Inside :func:`hold_state` what is collected is kept, and :meth:`commit` moves the
    state by all of it: with gradients that are accumulated over n batches it moves once, as by
    the n batches in one. Inside a transformation of ``torch.func``, which takes functions without
    side effects, nothing is collected.
    """

    def __init__(self) -> None:
        """Begin without state; see :meth:`add_state`."""
        super().__init__()
        self._least: dict[str, torch.dtype] = {}  # the precision of each, by name
        self._pending: dict[str, Tensor] = {}
        self.held = False

    def add_state(self, name: str, value: Tensor) -> None:
        """Keep a tensor as the attribute ``name`` and in ``state_dict``.

        It stays in the precision that it has here, or more, whatever the module is cast to.
        """
        # torch's default precision may be half where the module is made
        value = at_least(torch.float32, lambda x: x, value)
        self._least[name] = value.dtype
        setattr(self, name, value)

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of everything that was added."""
        return ((name, getattr(self, name)) for name in self._least)

    def move(self, collected: dict[str, Tensor]) -> None:
        """Move the state by what one step has given.

        Args:
            collected: What :meth:`collect` was called with, by name and merged over the step.
        """
        raise NotImplementedError

    def merge(self, name: str, earlier: Tensor, later: Tensor) -> Tensor:
        """What two calls of a step amount to; by default their sum."""
        return earlier + later

    @torch.no_grad()
    def collect(self, **given: Tensor) -> None:
        """Take what one call of ``forward`` gives, sums or rows, without gradient."""
        if is_transformed():
            return
        for name, value in given.items():
            earlier = self._pending.get(name)
            value = value.detach()
            self._pending[name] = value if earlier is None else self.merge(name, earlier, value)
        if not self.held:
            self.commit()

    @torch.no_grad()
    def commit(self) -> None:
        """Move the state by all that was collected since the last time."""
        collected, self._pending = self._pending, {}
        if collected:
            self.move(collected)

    def discard(self) -> None:
        """Forget what was collected, as where a step is left out."""
        self._pending = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StepState:
        """Go to another device; a lower precision than each began with is not taken."""
        super()._apply(fn, recurse)
        for name, value in list(self.named_state()):
            setattr(self, name, at_least(self._least[name], fn, value))
        self._pending = {n: at_least(x.dtype, fn, x) for n, x in self._pending.items()}
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, value in self.named_state():
            destination[prefix + name] = value
        for name, value in self._pending.items():
            destination[prefix + _PENDING + name] = value

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        unexpected: list[str] = []
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected, error_msgs
        )
        pending = prefix + _PENDING
        own = {prefix + name for name in self._least}
        unexpected_keys += [k for k in unexpected if k not in own and not k.startswith(pending)]
        device = None
        for name, own_value in self.named_state():
            self._load(prefix + name, own_value, state_dict, missing_keys, error_msgs)
            device = own_value.device
        self._pending = {
            key.removeprefix(pending): value.detach().to(device, copy=True)
            for key, value in state_dict.items()
            if key.startswith(pending)
        }

    @torch.no_grad()
    def _load(
        self,
        key: str,
        own: Tensor,
        state_dict: dict[str, Any],
        missing_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        value = state_dict.get(key)
        if value is None:
            missing_keys.append(key)
        elif value.shape != own.shape:
            error_msgs.append(
                f"size mismatch for {key}: the checkpoint has {tuple(value.shape)} but the module "
                f"{tuple(own.shape)}."
            )
        else:
            own.copy_(value)


def at_least(least: torch.dtype, fn: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """``fn``, which brings a module's tensors elsewhere, but not to a lower precision.

    Apple's GPUs, which have no float64, hold such a tensor in float32.
    """
    if value.dtype == torch.float64 and fn(torch.empty(0)).device.type == "mps":
        least, value = torch.float32, value.float()
    moved = fn(value)
    if not value.is_floating_point():
        return moved
    dtype = torch.promote_types(moved.dtype, least)
    # from the value itself: half precision has rounded it already
    return moved if moved.dtype == dtype else value.to(moved.device, dtype)


def states_of(module: nn.Module) -> list[StepState]:
    """Every :class:`StepState` of a module, itself included."""
    return [child for child in module.modules() if isinstance(child, StepState)]


@contextmanager
def hold_state(states: Iterable[StepState]) -> Iterator[None]:
    """Let states collect inside; they move when they are committed."""
    states = list(states)
    before = [state.held for state in states]
    for state in states:
        state.held = True
    try:
        yield
    finally:
        for state, held in zip(states, before, strict=True):
            state.held = held


@contextmanager
def accumulate_state(module: nn.Module) -> Iterator[None]:
    """Make the calls of a loss inside one step to its state: queues and centres move once.

    For training loops of one's own that accumulate gradients; erssl's methods do so by themselves.
    After an error the state is that of before.

    Args:
        module: A loss, or whatever holds losses.

    Examples:
        >>> from erssl.loss import ERLoss
        >>> loss_fn = ERLoss(memory_bank_size=(64, 8))
        >>> z = torch.randn(4, 2, 6, 8, requires_grad=True)
        >>> with accumulate_state(loss_fn):
        ...     for z0, z1 in z:
        ...         loss_fn(z0, z1).backward()
        ...         assert loss_fn.memory_bank.rows() is None
        >>> len(loss_fn.memory_bank.rows())
        48
    """
    states = states_of(module)
    try:
        with hold_state(states):
            yield
    except BaseException:
        for state in states:
            state.discard()
        raise
    for state in states:
        state.commit()
