"""Checkpoint files that are whole or not there, that say so themselves, and those before them.

A file is written under a temporary name in the same folder, flushed to the disk and renamed. It
ends with the SHA-256 of all before, as the comment of the zip archive that ``torch.save`` writes:
one file, still read by ``torch.load`` and safe to copy.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, Literal

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_warn

from erssl.errors import ErsslWarning, RunError
from erssl.files import remove_remains, replacing

_TAG = b"erssl-sha256:"
_COMMENT = len(_TAG) + 64
_BLOCK = 2**22
_UNREADABLE = (
    RuntimeError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    OSError,
    UnpicklingError,
    zipfile.BadZipFile,
)

State = Literal["whole", "unsigned", "damaged"]


@dataclass(frozen=True)
class Resumed:
    """A checkpoint to go on from.

    Attributes:
        path: The file.
        step: Optimiser steps that were done.
    """

    path: Path
    step: int


class _Hashed:
    """What ``torch.save`` writes to: a file and the digest of what went into it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha = hashlib.sha256()
        self.tail = b""  # not hashed yet: the last two bytes say how long the comment is
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            self.file.write(view)
        except OSError as error:  # torch would say something else of it
            self.error = error
            raise
        rest = self.tail + bytes(view[-2:])
        self.sha.update(self.tail[: max(0, len(rest) - 2)] if len(view) < 2 else self.tail)
        self.sha.update(view[:-2])
        self.tail = rest[-2:]
        return len(view)

    def flush(self) -> None:
        self.file.flush()


def write_checkpoint(content: Mapping[str, Any], path: Path, keep: int = 1) -> None:
    """Write a checkpoint such that a crash at any moment leaves a whole one.

    Args:
        content: What ``torch.save`` takes.
        path: The file, ``last.ckpt``; the ones before become ``last-1.ckpt``, ``last-2.ckpt`` ...
        keep: How many stay, this one among them; 1 replaces the one before.

    Raises:
        OSError: If it cannot be written; nothing has changed then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in (path, _before(path, 1)):
        remove_remains(name)
    with replacing(path) as partial:
        with partial.open("wb") as file:
            _write_signed(content, file)
            os.fsync(file.fileno())
        _make_room(path, keep)
    _flush_folder(path.parent)


def _write_signed(content: Mapping[str, Any], file: BinaryIO) -> None:
    hashed = _Hashed(file)
    try:
        torch.save(dict(content), hashed)  # type: ignore[arg-type]  # only writes are asked for
    except RuntimeError as error:
        raise hashed.error or error from None
    if hashed.tail != b"\0\0":
        raise RuntimeError(f"torch {torch.__version__} wrote an archive with a comment.")
    length = _COMMENT.to_bytes(2, "little")
    hashed.sha.update(length)
    file.seek(-2, os.SEEK_END)
    file.write(length + _TAG + hashed.sha.hexdigest().encode())
    file.flush()


def _make_room(path: Path, keep: int) -> None:
    """Move the files before by one; ``path`` itself stays until it is replaced."""
    if keep < 2 or not path.is_file():
        return
    for number in range(keep - 1, 1, -1):
        older = _before(path, number - 1)
        if older.is_file():
            older.replace(_before(path, number))
    try:
        with replacing(_before(path, 1)) as link:
            os.link(path, link)
    except OSError:  # a file system without links: for a moment there is no last.ckpt
        path.replace(_before(path, 1))


def state_of(path: Path) -> State:
    """Whether a file is what was written: by its digest, or by its CRC-32 where it has none.

    Args:
        path: The file.

    Returns:
        ``"whole"`` if the digest is right, ``"unsigned"`` if it has none but is an archive without
        fault (of an earlier version), ``"damaged"`` otherwise.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _COMMENT))
            comment = file.read()
            if not comment.startswith(_TAG):
                if comment[-22:-18] != b"PK\5\6" or comment[-2:] != b"\0\0":
                    return "damaged"  # no end of an archive without comment
                with zipfile.ZipFile(path) as archive:  # torch does not look at its CRC-32
                    return "damaged" if archive.testzip() else "unsigned"
            file.seek(0)
            sha, left = hashlib.sha256(), size - _COMMENT
            while left > 0 and (block := file.read(min(_BLOCK, left))):
                sha.update(block)
                left -= len(block)
    except _UNREADABLE:
        return "damaged"
    return "whole" if comment == _TAG + sha.hexdigest().encode() else "damaged"


def has_checkpoint(path: Path) -> bool:
    """Whether there is a checkpoint, or one before it.

    Args:
        path: Of ``last.ckpt``.
    """
    return bool(_kept(path))


def newest_whole(path: Path) -> Resumed | None:
    """The newest checkpoint that is not damaged; a warning names those that are.

    Args:
        path: Of ``last.ckpt``.

    Returns:
        ``None`` where there is no checkpoint at all.

    Raises:
        RunError: If all are damaged.
    """
    files = _kept(path)
    damaged: list[Path] = []
    for file in files:
        step = _step_of(file) if state_of(file) != "damaged" else None
        if step is None:
            damaged.append(file)
            continue
        if damaged:
            names = ", ".join(f.name for f in damaged)
            rank_zero_warn(
                f"{names} in {path.parent} is damaged (its checksum or content is wrong); the run "
                f"goes on from {file.name}, step {step}.",
                category=ErsslWarning,
            )
        return Resumed(file, step)
    if damaged:
        raise RunError(
            f"{path} is no readable checkpoint, nor is any before it ({len(damaged)} looked at); "
            "start again with overwrite=true, or name another run_dir."
        )
    return None


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's way to files, by :func:`write_checkpoint`."""

    def __init__(self, keep: int = 1, resumed: Resumed | None = None) -> None:
        """Set how many files stay.

        Args:
            keep: Files that stay, the newest among them.
            resumed: What this run goes on from. A newer file than that is damaged, and is replaced
                rather than kept in the place of a whole one.
        """
        self.keep = keep
        self._resumed = None if resumed is None else resumed.path

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint."""
        path = Path(path)
        replaces = self._resumed is not None and self._resumed != path
        write_checkpoint(checkpoint, path, 1 if replaces else self.keep)
        self._resumed = None


def _step_of(file: Path) -> int | None:
    try:
        return int(torch.load(file, "cpu", weights_only=True, mmap=True)["global_step"])
    except Exception:  # torch's reader raises nearly anything on damaged files
        return None


def _before(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def _kept(path: Path) -> list[Path]:
    """Existing files, the newest first."""
    older = {
        int(number): file
        for file in path.parent.glob(f"{path.stem}-*{path.suffix}")
        if (number := file.stem.removeprefix(f"{path.stem}-")).isdigit()
    }
    newest = [path] if path.is_file() else []
    return newest + [older[number] for number in sorted(older)]


def _flush_folder(folder: Path) -> None:
    """Let the rename itself reach the disk, where the system can say so of folders."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
