"""Files beside the images of a folder or a tar: counted by reason, and never without a word."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable

from erssl.data.formats import HEAD, extension_of
from erssl.errors import ErsslWarning, named

_UNNAMED = "images without an extension"


class LeftOut:
    """What a folder or a tar holds that is not taken for an image.

    Attributes:
        counts: Number of files by reason; a hidden folder counts as one.
        unnamed: Images whose names have no extension: ``<name> to <name with one>``.
    """

    def __init__(self) -> None:
        """Begin with nothing left out."""
        self.counts: Counter[str] = Counter()
        self.unnamed: list[str] = []

    def hide(self, count: int = 1) -> None:
        """Count hidden files or folders."""
        self.counts["hidden"] += count

    def add(self, name: str, read: Callable[[], bytes]) -> None:
        """Count a file that has no image's extension.

        Args:
            name: Its name, with the folder.
            read: Gives its first bytes, by which an image without an extension is told.
        """
        extension = os.path.splitext(name)[1].lower()
        if extension:
            self.counts[f"extension {extension}"] += 1
        elif suitable := extension_of(read()):
            self.counts[_UNNAMED] += 1
            self.unnamed.append(f"{name} to {name}{suitable}")
        else:
            self.counts["no extension"] += 1

    def advice(self) -> str:
        """Say which images have no extension and how to rename them; empty where there are none."""
        if not self.unnamed:
            return ""
        count = len(self.unnamed)
        images = "1 image without an extension" if count == 1 else f"{count:,} {_UNNAMED}"
        hold = "it holds" if count == 1 else "they hold"
        return f"{images}, to be renamed by what {hold} ({named(self.unnamed)})"

    def warn(self, where: str) -> None:
        """Say once that images without an extension are left out, if there are any.

        Args:
            where: The option and its value, for the sentence.
        """
        if self.unnamed:
            warnings.warn(
                f"{where} has {self.advice()}; until then they are left out.",
                ErsslWarning,
                stacklevel=3,
            )


def first_bytes(path: str) -> bytes:
    """The first bytes of a file; none of what cannot be read, or is no file, as a pipe."""
    try:
        if not os.path.isfile(path):
            return b""
        with open(path, "rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""
