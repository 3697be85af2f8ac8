"""The files of an image folder in a few dozen bytes each, for folders of millions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import starmap
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Samples = Sequence[tuple[str, int]]


class FileList(Sequence[tuple[str, int]]):
    """``(path, class number)`` of each file, made when it is asked for.

    Names lie one after another in one piece of memory, without the folders, of which each is
    there once: 1.3 million files of ImageNet take about 55 MB, where a list of pairs takes 270 MB
    that every loader process comes to copy. Slices share the names.
    """

    def __init__(
        self,
        folders: Sequence[str],
        folder_of: npt.NDArray[np.int32],
        names: bytes,
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.uint16],
        targets: npt.NDArray[np.int32],
    ) -> None:
        """Take the parts; see :class:`FileListBuilder`.

        Args:
            folders: With a separator at the end.
            folder_of: Number (N,) of each file's folder.
            names: All names as the system has them.
            starts: First byte (N,) of each name.
            lengths: Bytes (N,) of each name.
            targets: Class numbers (N,).
        """
        self._folders, self._folder_of = folders, folder_of
        self._names, self._starts, self._lengths = names, starts, lengths
        self.targets = targets

    def __len__(self) -> int:
        """Number of files."""
        return len(self.targets)

    def path(self, index: int) -> str:
        """The path of one file."""
        start = int(self._starts[index])
        name = self._names[start : start + int(self._lengths[index])]
        folder: str = self._folders[self._folder_of[index]]
        return folder + os.fsdecode(name)

    @overload
    def __getitem__(self, index: int) -> tuple[str, int]: ...

    @overload
    def __getitem__(self, index: slice) -> FileList: ...

    def __getitem__(self, index: int | slice) -> tuple[str, int] | FileList:
        """One file, or a part of the list."""
        if isinstance(index, slice):
            return self.select(index)
        return self.path(index), int(self.targets[index])

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """All files, one after another."""
        for number in range(len(self)):
            yield self.path(number), int(self.targets[number])

    def __eq__(self, other: object) -> bool:
        """Whether a list of pairs, of this or another kind, has the same in the same order."""
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        same = zip(self, other, strict=False)
        return len(self) == len(other) and all(starmap(_equal, same))

    __hash__ = None  # type: ignore[assignment]

    def select(self, index: slice | npt.NDArray[Any]) -> FileList:
        """Those of the files: a slice, their numbers or a mask."""
        return FileList(
            self._folders,
            self._folder_of[index],
            self._names,
            self._starts[index],
            self._lengths[index],
            self.targets[index],
        )

    @property
    def nbytes(self) -> int:
        """Bytes of memory, but for the folders' names."""
        arrays = (self._folder_of, self._starts, self._lengths, self.targets)
        return len(self._names) + sum(array.nbytes for array in arrays)


class FileListBuilder:
    """Collects the files of one folder after another."""

    def __init__(self) -> None:
        """Begin with none."""
        self._folders: list[str] = []
        self._names: list[bytes] = []
        self._counts: list[int] = []
        self._targets: list[int] = []

    def add(self, folder: str, names: Sequence[str], target: int) -> None:
        """Add files of a folder, all of one class, in their order."""
        if names:
            self._folders.append(os.path.join(folder, ""))
            self._names.append(os.fsencode("\0".join(names)))
            self._counts.append(len(names))
            self._targets.append(target)

    def build(self) -> FileList:
        """The list of all."""
        names = b"\0".join(self._names)
        ends = np.flatnonzero(np.frombuffer(names + b"\0", dtype=np.uint8) == 0)
        if not self._names:
            ends = ends[:0]
        starts = np.concatenate([np.zeros(min(1, len(ends)), dtype=np.int64), ends[:-1] + 1])
        counts = np.asarray(self._counts, dtype=np.int64)
        numbers = np.arange(len(counts), dtype=np.int32)
        targets = np.asarray(self._targets, dtype=np.int32)
        return FileList(
            self._folders,
            np.repeat(numbers, counts),
            names,
            starts,
            (ends - starts).astype(np.uint16),
            np.repeat(targets, counts),
        )


class Paths(Sequence[str]):
    """The paths of a list of files, made when they are asked for."""

    def __init__(self, samples: Samples) -> None:
        """Take ``(path, class number)`` of each file."""
        self._samples = samples

    def __len__(self) -> int:
        """Number of files."""
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        """One path, or those of a part."""
        if isinstance(index, slice):
            return [path for path, _ in self._samples[index]]
        return self._samples[index][0]


def chosen(samples: Samples, numbers: npt.NDArray[np.int64]) -> Samples:
    """Those of the files, in that order, in a list of the same kind."""
    if isinstance(samples, FileList):
        return samples.select(numbers)
    return tuple(samples[number] for number in numbers.tolist())


def targets_of(samples: Samples) -> npt.NDArray[np.int64]:
    """Class numbers (N,) of the files."""
    if isinstance(samples, FileList):
        return samples.targets.astype(np.int64)
    return np.asarray([target for _, target in samples], dtype=np.int64)


def _equal(ours: tuple[str, int], theirs: object) -> bool:
    return ours == theirs
