"""Where erssl keeps what outlives a run."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from erssl.errors import ConfigError


def erssl_home() -> Path:
    """The folder of cached features and of one's own zoo.

    The environment variable ``ERSSL_HOME``; by default ``erssl`` in the user's cache folder
    (``XDG_CACHE_HOME``, or ``~/.cache``).
    """
    home = os.environ.get("ERSSL_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "erssl"


def user_path(said: str | Path) -> Path:
    """A path as somebody has written it, with ``~`` for the home folder.

    Raises:
        ConfigError: If no file can have that name.
    """
    try:
        path = Path(said).expanduser()
        path.stat()
    except (ValueError, RuntimeError) as error:  # a null byte; ~name of nobody
        raise ConfigError(f"{said} cannot name a file ({error}); write another path.") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise ConfigError(
                f"{said} cannot name a file ({error.strerror}); write another path."
            ) from error
    return path
