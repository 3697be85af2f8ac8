"""What is known of files that were decoded once, so that a long check goes on where it ended."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import PIL

from erssl.data.formats import image_formats
from erssl.errors import ErsslWarning
from erssl.paths import erssl_home


class Checked(NamedTuple):
    """What is known of the files of a block.

    Attributes:
        unreadable: Path and reason of each that cannot be read.
        several: Those of several pages or frames.
        further: TIFF files of more than three channels, of which three are read.
    """

    unreadable: list[tuple[str, str]]
    several: list[str]
    further: list[str]


class CheckedFiles:
    """Blocks of files that were decoded, and which of them could not be.

    A block is known by the paths, sizes and times of change of its files, as features are: a file
    that changes has its block decoded again. A line of a text file is a block; what a killed
    process has not finished is not there.
    """

    def __init__(self, folder: Path, channels: int) -> None:
        """Read what is known of a folder's files.

        Args:
            folder: The folder.
            channels: That they are read with; Pillow's version and formats count too.
        """
        read_by = (os.path.abspath(folder), channels, PIL.__version__, list(image_formats()))
        name = hashlib.sha256(repr(read_by).encode(errors="surrogatepass")).hexdigest()[:32]
        self._file = erssl_home() / "checked" / f"{name}.jsonl"
        self._known: dict[str, Checked] = {}
        self._writable = True
        try:
            lines = self._file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            lines = []
        for line in lines:
            try:
                block = json.loads(line)
                unreadable = [(str(path), str(why)) for path, why in block["unreadable"]]
                self._known[block["files"]] = Checked(
                    unreadable, list(block["several"]), list(block["further"])
                )
            except (ValueError, KeyError, TypeError):
                continue  # the end of a line that a killed process wrote

    def known(self, block: str) -> Checked | None:
        """What is known of a block; ``None`` for nothing."""
        return self._known.get(block)

    def keep(self, block: str, checked: Checked) -> None:
        """Add a block; where that fails, warn once and keep no more."""
        if not self._writable:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"files": block, **checked._asdict()}) + "\n")
        except OSError as error:
            self._writable = False
            warnings.warn(
                f"Which images were decoded cannot be kept in {self._file} "
                f"({error.strerror or error}), so that the check begins anew another time.",
                ErsslWarning,
                stacklevel=4,
            )


def block_digest(paths: Sequence[str | Path]) -> str:
    """What tells when files change: their paths, sizes and times of change."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)
            seen: tuple[int, int] | None = (status.st_size, status.st_mtime_ns)
        except OSError:
            seen = None
        digest.update(repr((str(path), seen)).encode(errors="surrogatepass"))
    return digest.hexdigest()
