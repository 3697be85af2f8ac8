"""Lines that say where a training is: iteration, losses, learning rate, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

PERIOD = 20  # iterations, as Detectron2's own log


class ProgressLines:
    """A line every :data:`PERIOD` iterations, and one at the end."""

    def __init__(self, iterations: int, begin: int, say: Callable[[str], None]) -> None:
        """Start the clock.

        Args:
            iterations: Length of the training.
            begin: Iteration that it begins or goes on with.
            say: Prints a line.
        """
        self._iterations, self._begin, self._say = iterations, begin, say
        self._since = time.perf_counter()

    def show(self, done: int, losses: Mapping[str, float], rate: float) -> None:
        """Say where the training is, if it is time to.

        Args:
            done: Iterations that are done.
            losses: By name, ``loss`` their sum.
            rate: Learning rate of the last one.
        """
        if done % PERIOD and done != self._iterations:
            return
        each = (time.perf_counter() - self._since) / max(done - self._begin, 1)
        parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self._say(
            f"iteration {done}/{self._iterations} {parts} lr {rate:.3g} {each:.2f} s each, left "
            f"{duration(each * (self._iterations - done))}"
        )


def told(
    items: Iterable[T],
    phase: str,
    total: int,
    things: str,
    say: Callable[[str], None],
    seconds: float = 10.0,
) -> Iterator[T]:
    """Give items, and say as they come how far a phase is.

    Args:
        items: What is gone through.
        phase: What is done with them.
        total: Number of items.
        things: What they are.
        say: Prints a line.
        seconds: From one line to the next, at least.
    """
    say(f"{phase}: {total:,} {things}")
    since = time.perf_counter()
    for done, item in enumerate(items, 1):
        yield item
        now = time.perf_counter()
        if done < total and now - since >= seconds:
            say(f"{phase}: {done:,} of {total:,} {things} done")
            since = now


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    Example:
        >>> duration(4000), duration(95)
        ('1:06:40', '0:01:35')
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
