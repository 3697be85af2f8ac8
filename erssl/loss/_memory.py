"""lightly's memory bank, made to survive a checkpoint and to start empty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightly.models.modules.memory_bank import MemoryBankModule
from torch import Tensor


class PersistentMemoryBank(MemoryBankModule):
    """Queue of embeddings kept in ``state_dict``.

    lightly 1.6 registers its bank as a non-persistent buffer, lost on resume, and fills it with
    random vectors, which a density estimate must not count. Here the buffers are persistent and
    only rows that were really written are handed out.
    """

    filled: Tensor

    def __init__(self, size: int | Sequence[int], gather_distributed: bool = False) -> None:
        """See lightly's ``MemoryBankModule``; ``size`` is (n, d), or 0 for no memory."""
        super().__init__(size, gather_distributed=gather_distributed, feature_dim_first=False)
        for name in ("bank", "bank_ptr"):
            self.register_buffer(name, getattr(self, name), persistent=True)
        if not self.enabled:
            self.bank_ptr.zero_()  # lightly leaves the pointer of a disabled bank uninitialised
        self.register_buffer("filled", torch.zeros(1, dtype=torch.long))

    @property
    def enabled(self) -> bool:
        """Whether the queue has room for anything."""
        return bool(self.size[0] > 0)

    def rows(self) -> Tensor | None:
        """The rows written so far (M, d), or ``None`` where there are none."""
        filled = int(self.filled) if self.enabled else 0
        return self.bank[:filled].clone() if filled else None

    @torch.no_grad()
    def push(self, z: Tensor) -> None:
        """Write rows (N, d) over the oldest ones."""
        if not self.enabled:
            return
        if z.shape[1] != self.size[1]:
            raise ValueError(
                f"memory_bank_size={tuple(self.size)} holds embeddings of dimension "
                f"{self.size[1]} but the loss was given dimension {z.shape[1]}."
            )
        start = int(self.bank_ptr)
        self._dequeue_and_enqueue(z[-self.size[0] :].to(self.bank.dtype))
        end = int(self.bank_ptr)
        wrapped = end <= start
        self.filled.fill_(self.size[0] if wrapped else max(end, int(self.filled)))
