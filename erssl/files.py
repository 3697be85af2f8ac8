"""Writing files so that each is whole or not there: the one way in which erssl replaces a file."""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from erssl.escaping import csv_table

PARTIAL = ".partial"
# Errors of the system that tell of the place rather than of the program.
FAULTS_OF_PLACES = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EIO,
        errno.EISDIR,
        errno.ENOTDIR,
    }
)


@contextmanager
def replacing(path: Path, *, keep_suffix: bool = False) -> Iterator[Path]:
    """Give the name of a file to write, which takes the place of another once it is whole.

    The name is in the same folder and belongs to this call alone, so that several processes and
    threads may write the same file; the last to end wins. What is written may also be a folder,
    whose files then replace those of the same names in a folder that is there.

    Args:
        path: The file to replace, or to make.
        keep_suffix: Let the temporary name end as ``path`` does, for writers that go by it.

    Yields:
        The temporary name. What has it is renamed if the block ends without an error, and removed
        otherwise.

    Raises:
        OSError: If it cannot be written, with the name of ``path``; that is then as it was before.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "notes.txt") as partial:
        ...         _ = partial.write_text("whole")
        ...     print((Path(folder) / "notes.txt").read_text())
        whole
    """
    partial = path.with_name(_partial_name(path, uuid.uuid4().hex, keep_suffix))
    try:
        yield partial
        _share(partial)
        _move(partial, path)
    except OSError as error:
        own = error.filename2 is None and error.filename in (None, str(partial))
        if own and error.errno in FAULTS_OF_PLACES:
            error.filename = str(path)
        raise
    except Exception as error:
        if (number := _system_error(error)) not in FAULTS_OF_PLACES:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        _remove(partial)


def _system_error(error: Exception) -> int:
    """The number of the system's error that a library written in Rust tells of; 0 for none."""
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told.group(1)) if told else 0


def remove_remains(path: Path, *, keep_suffix: bool = False) -> None:
    """Remove what processes that were killed while they wrote a file have left beside it.

    Args:
        path: The file, which nothing else is writing now.
        keep_suffix: As in :func:`replacing`.
    """
    for left in path.parent.glob(_partial_name(path, "*", keep_suffix)):
        _remove(left)


def _partial_name(path: Path, own: str, keep_suffix: bool) -> str:
    escape = glob.escape if own == "*" else str
    if keep_suffix:
        return f".{escape(path.stem)}.{own}{PARTIAL}{escape(path.suffix)}"
    return f"{escape(path.name)}.{own}{PARTIAL}"


def _share(partial: Path) -> None:
    """Give what a library made private to its user the permissions of any new file here.

    safetensors makes its files so; others could not read the one among the neighbours.
    """
    files = [partial, *partial.rglob("*")] if partial.is_dir() else [partial]
    private = [f for f in files if f.is_file() and not f.stat().st_mode & 0o077]
    if not private:
        return
    probe = partial.with_name(f"{partial.name}.mode{PARTIAL}")
    try:
        probe.touch(exist_ok=False)
        mode = stat.S_IMODE(probe.stat().st_mode)
        for file in private:
            file.chmod(mode)
    finally:
        _remove(probe)


def _move(partial: Path, path: Path) -> None:
    if not (partial.is_dir() and path.is_dir()):
        partial.replace(path)
        return
    for file in sorted(partial.iterdir()):
        file.replace(path / file.name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, whole or not at all; of file names, bytes that are none are escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all; what JSON has no form for is written as its text."""
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def write_rows(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, whole or not at all, whose cells are as `erssl.escaping.csv_cell` says."""
    write_text(path, csv_table(rows))
