"""Standard output of any encoding: a terminal of ASCII ends no command."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_ERRORS = "erssl.spelt"
_SPELT = {"±": "+/-", "→": "->", "…": "...", "×": "x", "κ": "kappa", "–": "-", "—": "-", "²": "^2"}


@contextmanager
def spelling_out() -> Iterator[None]:
    """Spell out what the encoding of standard output and error has no form for, inside.

    Where ``PYTHONIOENCODING`` or the locale is ASCII, ``±`` is written as ``+/-``, and letters of
    names as their escapes (``\\xe4``). What is no text file, such as a notebook's output, is left
    alone.
    """
    codecs.register_error(_ERRORS, _spell)
    changed = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            changed.append((stream, stream.errors))
            stream.reconfigure(errors=_ERRORS)
    try:
        yield
    finally:
        for stream, errors in changed:
            if not stream.closed:
                stream.reconfigure(errors=errors)


def nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader is gone (``erssl methods | head``)."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def discard_output() -> None:
    """Let what is still written to standard output go nowhere, such as by the flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _spell(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    spelt = (_SPELT.get(c) or c.encode("ascii", "backslashreplace").decode() for c in letters)
    return "".join(spelt), error.end
