"""lightly's memory bank, made to survive a checkpoint and to hold only what was written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightly.models.modules.memory_bank import MemoryBankModule
from torch import Tensor


class PersistentMemoryBank(MemoryBankModule):
    """Queue of embeddings kept in ``state_dict``.

    lightly 1.6 registers its bank as a non-persistent buffer, lost on resume, fills it with random
    vectors, which a density estimate must not count, and drops the newest rows of a batch that
    passes the end. Here the buffers are persistent, only rows that were written are handed out,
    and a batch goes on at the beginning.
    """

    bank: Tensor
    bank_ptr: Tensor
    filled: Tensor

    def __init__(self, size: int | Sequence[int]) -> None:
        """See lightly's ``MemoryBankModule``; ``size`` is (n, d), or 0 for no memory."""
        super().__init__(size, feature_dim_first=False)
        for name in ("bank", "bank_ptr"):
            self.register_buffer(name, getattr(self, name), persistent=True)
        if not self.enabled:
            self.bank_ptr.zero_()  # lightly leaves the pointer of a disabled bank uninitialised
        self.register_buffer("filled", torch.zeros(1, dtype=torch.long))

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
        filled = int(self.filled) if self.enabled else 0
        return self.bank[:filled] if filled else None

    @torch.no_grad()
    def push(self, z: Tensor) -> None:
        """Write rows (N, d) over the oldest ones."""
        if not self.enabled:
            return
        size = self.size[0]
        z = z[-size:].to(self.bank)
        slots = (self.bank_ptr + torch.arange(len(z), device=self.bank.device)) % size
        self.bank = self.bank.index_copy(0, slots, z)  # autograd may still hold the old one
        self.bank_ptr.copy_((self.bank_ptr + len(z)) % size)
        self.filled.copy_((self.filled + len(z)).clamp_max(size))
