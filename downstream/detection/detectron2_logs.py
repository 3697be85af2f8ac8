"""Where Detectron2's messages go: all into a file, progress and warnings to the reader."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

FILE = "log.txt"
_LOGGERS = ("detectron2", "fvcore")
# Iterations with losses, rate and ETA; that precise statistics begin; how far an evaluation is.
_PROGRESS = (
    "detectron2.utils.events",
    "detectron2.erssl",
    "detectron2.engine.hooks",
    "detectron2.evaluation.evaluator",
)


@contextlib.contextmanager
def logging_to(folder: Path, say: Callable[[str], None] | None) -> Iterator[None]:
    """Send messages to ``log.txt`` and the reader while it lasts.

    Args:
        folder: Where the file lies; it is continued.
        say: Prints a line for the reader; ``None`` on every process but the first.
    """
    handlers: list[logging.Handler] = []
    if say is not None:
        file = logging.FileHandler(folder / FILE, encoding="utf-8")
        file.setFormatter(logging.Formatter("[%(asctime)s %(name)s]: %(message)s"))
        handlers = [file, _Reader(say)]
    before = []
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        before.append((logger, logger.level, logger.propagate))
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level, propagate in before:
            for handler in handlers:
                logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        for handler in handlers:
            handler.close()


class _Reader(logging.Handler):
    """Prints what a reader wants to see of a training."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        shown = record.name.startswith(_PROGRESS) and record.levelno < logging.ERROR
        if shown or record.levelno == logging.WARNING:
            self.say(record.getMessage().strip())
