"""What is done with images before a command begins, said where it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_TELL: ContextVar[Callable[[str], None] | None] = ContextVar("tell", default=None)


@contextmanager
def telling(tell: Callable[[str], None]) -> Iterator[None]:
    """Give the sentences of `say_phase` to a reader while it lasts.

    Args:
        tell: Prints a sentence.
    """
    token = _TELL.set(tell)
    try:
        yield
    finally:
        _TELL.reset(token)


def say_phase(sentence: str) -> None:
    """Say what begins, if somebody listens."""
    tell = _TELL.get()
    if tell is not None:
        tell(sentence)
