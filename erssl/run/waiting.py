"""Waiting for directories that other processes have in use, as after the end of their parent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from erssl.errors import named
from erssl.run.console import say
from erssl.run.lock import holder_of

PATIENCE = 120.0  # seconds: a process that has to end does so after its step and its checkpoint
_LOOK = 0.5  # seconds from one look to the next


def wait_for_one(folders: Sequence[Path], console: Console) -> bool:
    """Wait until one of some directories is not in use, at most :data:`PATIENCE` seconds.

    Such as after ``kill -9`` of a command that had started others, which notice it within a moment
    and write their checkpoints. A sentence names those that are waited for.

    Args:
        folders: The directories; none need exist.
        console: Where the sentence goes.

    Returns:
        Whether one is free.
    """
    until = time.monotonic() + PATIENCE
    told = False
    while folders:
        users = [holder_of(folder) for folder in folders]
        if None in users:
            return True
        if not told:
            by = named(dict.fromkeys(filter(None, users)))
            places = named(folder.name for folder in folders)
            say(
                console,
                f"{places}: in use by {by}; waiting for its end, at most {PATIENCE:.0f} s.",
            )
            told = True
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK)
    return True
