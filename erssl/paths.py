"""Where erssl keeps what outlives a run."""

from __future__ import annotations

import os
from pathlib import Path


def erssl_home() -> Path:
    """The folder of cached features and of one's own zoo.

    The environment variable ``ERSSL_HOME``; by default ``erssl`` in the user's cache folder
    (``XDG_CACHE_HOME``, or ``~/.cache``).
    """
    home = os.environ.get("ERSSL_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "erssl"
