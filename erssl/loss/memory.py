"""lightly's memory bank, made to survive a checkpoint and to hold only what was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightly.models.modules.memory_bank import MemoryBankModule
from torch import Tensor

from erssl.loss.state import StepState


class PersistentMemoryBank(StepState):
    """Queue of embeddings kept in ``state_dict``.

    lightly 1.6 registers its bank as a non-persistent buffer, lost on resume, fills it with random
    vectors, which a density estimate must not count, and drops the newest rows of a batch that
    passes the end. Here the bank is saved, only rows that were written are handed out, and a batch
    goes on at the beginning.
    """

    bank: Tensor
    bank_ptr: Tensor
    filled: Tensor
    _known: tuple[Tensor, int, int] | None  # the count, its version, and its value on the host

    def __init__(self, size: int | Sequence[int]) -> None:
        """See lightly's ``MemoryBankModule``; ``size`` is (n, d), or 0 for no memory."""
        super().__init__()
        theirs = MemoryBankModule(size, feature_dim_first=False)  # refuses other sizes
        self.size: tuple[int, ...] = theirs.size
        self.add_state("bank", theirs.bank)
        self.add_state("bank_ptr", torch.zeros(1, dtype=torch.long))
        self.add_state("filled", torch.zeros(1, dtype=torch.long))
        self._known = (self.filled, self.filled._version, 0)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and other processes count for themselves."""
        return {**self.__dict__, "_known": None}

    @property
    def enabled(self) -> bool:
        """Whether the queue has room for anything."""
        return bool(self.size[0] > 0)

    def check(self, z: Tensor) -> None:
        """Refuse embeddings (N, d) whose dimension is not the queue's, with a ValueError."""
        if self.enabled and z.shape[1] != self.size[1]:
            raise ValueError(
                f"memory_bank_size={tuple(self.size)} holds embeddings of dimension "
                f"{self.size[1]} but the loss was given dimension {z.shape[1]}."
            )

    def rows(self) -> Tensor | None:
        """The rows written so far (M, d), or ``None`` where there are none."""
        if self.enabled and torch.compiler.is_dynamo_compiling():
            raise RuntimeError(
                "A loss with a queue cannot be part of a whole graph, for how many rows it holds "
                "is known to Python alone. Set memory_bank_size=0, or leave the loss out with "
                "torch.compiler.disable(loss_fn)."
            )
        filled = self._count() if self.enabled else 0
        return self.bank[:filled] if filled else None

    def push(self, z: Tensor) -> None:
        """Write rows over the oldest ones, once a step.

        Args:
            z: Rows (…, N, d). Leading dimensions, such as views and ranks, stay together: those of
                several calls of a step come in the order of one call on all images.
        """
        if self.enabled:
            self.collect(rows=z)

    def merge(self, name: str, earlier: Tensor, later: Tensor) -> Tensor:
        """Rows of one view and rank beside each other."""
        return torch.cat([earlier, later.to(earlier)], dim=-2)

    def move(self, collected: dict[str, Tensor]) -> None:
        """Write the rows of a step (…, N, d)."""
        size, rows = self.size[0], collected["rows"]
        z = rows.reshape(-1, rows.shape[-1])[-size:].to(self.bank)
        slots = (self.bank_ptr + torch.arange(len(z), device=self.bank.device)) % size
        self.bank = self.bank.index_copy(0, slots, z)  # autograd may still hold the old one
        self.bank_ptr.copy_((self.bank_ptr + len(z)) % size)
        filled = min(self._count() + len(z), size)
        self.filled.fill_(filled)
        self._known = (self.filled, self.filled._version, filled)

    def _count(self) -> int:
        """How many rows were written.

        It is read from the device, which waits for it, only where the tensor is not as it was
        left here: after a checkpoint, or on another device.
        """
        if self.filled.is_inference():  # which counts no changes
            return int(self.filled)
        known, version = self._known, self.filled._version
        if known is None or known[0] is not self.filled or known[1] != version:
            known = self._known = (self.filled, version, int(self.filled))
        return known[2]
