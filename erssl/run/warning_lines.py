"""Warnings on the command line: one sentence each, without the line of code that gave it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from erssl.errors import ErsslWarning, printable

_UNBEGUN_LOADER = "'_MultiProcessingDataLoaderIter' object has no attribute"
_OF_CODE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning)


@contextmanager
def clean_warnings() -> Iterator[None]:
    """Show warnings as sentences; what only tells authors of libraries of their code is left out.

    With Python's own option ``-W`` or ``PYTHONWARNINGS`` they are shown as Python does. So are
    errors in the end of an object, but for torch's loaders that had not quite begun.
    """
    shown = sys.unraisablehook

    def show(left: sys.UnraisableHookArgs) -> None:
        if _UNBEGUN_LOADER not in str(left.exc_value):
            shown(left)

    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.showwarning = _show
        sys.unraisablehook = show
        try:
            yield
        finally:
            sys.unraisablehook = shown


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, _OF_CODE):
        return
    text = " ".join(str(message).split())
    about = "" if issubclass(category, ErsslWarning) else f" of {_library(filename)}"
    print(f"Warning{about}: {printable(text)}", file=file or sys.stderr)


def _library(filename: str) -> str:
    """The package that a file of code belongs to."""
    parts = Path(filename).parts
    for folder in ("site-packages", "dist-packages"):
        if folder in parts[:-1]:
            return parts[parts.index(folder) + 1].removesuffix(".py")
    return Path(filename).stem
