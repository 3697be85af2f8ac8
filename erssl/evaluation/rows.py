"""Features of a split: a tensor in memory, or rows that lie in files and are read by blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 8192  # rows that are converted at a time where nothing else sets the size


class StoredRows:
    """Rows (N, d) that lie in memory-mapped files, given in float32 a block at a time.

    It answers as a tensor does where protocols read rows: length, shape, slices, rows by their
    numbers, blocks one after another. What has been read of the files is the system's to forget;
    only the block that is asked for takes memory of the process. What needs all rows in one tensor
    does not take it, which the type checker sees.

    Attributes:
        shape: N and d.
        device: Of the blocks: the CPU.
        ndim: 2.
        folder: Where the files lie, for others that are needed beside them; ``None`` if unknown.
    """

    def __init__(
        self, shards: Sequence[Tensor], chosen: Tensor | None = None, folder: Path | None = None
    ) -> None:
        """Take the parts.

        Args:
            shards: Consecutive rows (n, d) each, float16 or float32, at least one.
            chosen: Numbers (N,) of the rows that these are, in their order; ``None`` for all.
            folder: Where the files lie.
        """
        self._shards = list(shards)
        self._starts = torch.tensor([0, *map(len, shards)]).cumsum(0)
        self._chosen = chosen
        count = int(self._starts[-1]) if chosen is None else len(chosen)
        self.shape = torch.Size((count, shards[0].shape[1]))
        self.device = torch.device("cpu")
        self.ndim = 2
        self.folder = folder

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """What holds every row as it is stored: float16 where all of them are of it."""
        half = all(shard.dtype == torch.float16 for shard in self._shards)
        return torch.float16 if half else torch.float32

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Rows (…, d) by consecutive numbers or by numbers (…) in any order, float32."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                return self[torch.arange(start, stop, step)]
            return self.read(start, max(start, stop))
        if rows.dtype == torch.bool:
            rows = rows.nonzero()[:, 0]
        flat = rows.reshape(-1).cpu()
        flat = torch.where(flat < 0, flat + len(self), flat)
        gathered = self._gather(flat if self._chosen is None else self._chosen[flat])
        return gathered.view(*rows.shape, self.shape[1])

    def read(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Rows ``start`` to ``stop - 1``, float32.

        Args:
            start: The first.
            stop: The first that is not read.
            out: Memory (stop - start, d) to read into; of any floating type.
        """
        if out is None:
            out = torch.empty(stop - start, self.shape[1])
        if self._chosen is not None:
            return out.copy_(self._gather(self._chosen[start:stop]))
        first = int(torch.searchsorted(self._starts, start, right=True)) - 1
        for number in range(max(first, 0), len(self._shards)):
            low, high = int(self._starts[number]), int(self._starts[number + 1])
            if low >= stop:
                break
            a, b = max(start, low), min(stop, high)
            out[a - start : b - start] = self._shards[number][a - low : b - low]
        return out

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows, ``size`` at a time, float32."""
        for start in range(0, len(self), size):
            yield self.read(start, min(start + size, len(self)))

    def select(self, numbers: Tensor) -> StoredRows:
        """Those of the rows (M,), in that order, which are not read for it."""
        own = numbers.long().cpu()
        chosen = own if self._chosen is None else self._chosen[own]
        return StoredRows(self._shards, chosen, self.folder)

    def to(self, device: torch.device | str) -> Tensor | StoredRows:
        """The rows on another device, whole and in the type that they are stored in."""
        place = torch.device(device)
        if place.type == "cpu":
            return self
        whole = torch.empty(self.shape, dtype=self.dtype, device=place)
        for start in range(0, len(self), BLOCK):
            whole[start : start + BLOCK] = self[start : start + BLOCK].to(place, self.dtype)
        return whole

    def _gather(self, numbers: Tensor) -> Tensor:
        """Rows (n, d) of the shards by their numbers (n,): every shard is visited once."""
        ordered, order = numbers.sort()
        if len(ordered) and not 0 <= int(ordered[0]) <= int(ordered[-1]) < int(self._starts[-1]):
            raise IndexError(f"A row is out of the range of the {int(self._starts[-1])} rows.")
        out = torch.empty(len(numbers), self.shape[1])
        bounds = torch.searchsorted(ordered, self._starts).tolist()
        for shard, low, a, b in zip(
            self._shards, self._starts.tolist(), bounds, bounds[1:], strict=False
        ):
            if b > a:
                out.index_copy_(0, order[a:b], shard[ordered[a:b] - low].float())
        return out


Rows = Tensor | StoredRows


class Features(NamedTuple):
    """Features of a split.

    Attributes:
        features: Backbone features (N, feature_dim), float32, on the CPU.
        labels: Class indices (N,), or 1 and 0 for each of K classes (N, K), int64.
    """

    features: Tensor
    labels: Tensor


class StoredFeatures(NamedTuple):
    """Features of a split that lie in files.

    Attributes:
        features: Backbone features (N, feature_dim), given in float32 by blocks.
        labels: Class indices (N,), or 1 and 0 for each of K classes (N, K), int64.
    """

    features: StoredRows
    labels: Tensor


AnyFeatures = Features | StoredFeatures


def selected(features: AnyFeatures, numbers: Tensor) -> AnyFeatures:
    """The features and labels of some images (M,), in that order."""
    rows, labels = features
    if isinstance(rows, StoredRows):
        return StoredFeatures(rows.select(numbers), labels[numbers])
    return Features(rows[numbers], labels[numbers])


def moved(features: AnyFeatures, device: torch.device | str) -> AnyFeatures:
    """The features and labels on a device; those in files whole, unless it is the CPU."""
    rows, labels = features.features.to(device), features.labels.to(device)
    if isinstance(rows, StoredRows):
        return StoredFeatures(rows, labels)
    return Features(rows, labels)


def joined(parts: Sequence[AnyFeatures]) -> AnyFeatures:
    """Features of several splits one after another; none of those in files is read for it."""
    labels = torch.cat([part.labels for part in parts])
    stored = [part.features for part in parts if isinstance(part.features, StoredRows)]
    if len(stored) == len(parts):
        return StoredFeatures(join_rows(stored), labels)
    held = [part.features[0 : len(part.labels)] for part in parts]
    return Features(torch.cat(held), labels)


def join_rows(parts: Sequence[StoredRows]) -> StoredRows:
    """Stored rows of several splits one after another, without reading them."""
    shards = [shard for part in parts for shard in part._shards]
    if all(part._chosen is None for part in parts):
        return StoredRows(shards, folder=parts[0].folder)
    numbers, before = [], 0
    for part in parts:
        there = int(part._starts[-1])
        chosen = torch.arange(there) if part._chosen is None else part._chosen
        numbers.append(chosen + before)
        before += there
    return StoredRows(shards, torch.cat(numbers), parts[0].folder)


def blocks(rows: Rows, size: int = BLOCK) -> Iterable[Tensor]:
    """Blocks of rows (n, d): views of a tensor in its own type, else float32."""
    return rows.split(size)


def in_memory(rows: Rows) -> Tensor:
    """All rows in one tensor."""
    return rows if isinstance(rows, Tensor) else rows[0 : len(rows)]
