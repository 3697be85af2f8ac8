"""A store of runs: pretrainings of equal settings are never trained twice.

A store is a folder of run directories. A run is found by its resolved settings, whatever its
folder is called, so that a run of ``erssl pretrain`` may be laid beside the others. Settings that
say where and how a run works, not what it computes, do not count, and image folders count by what
is in them, not by their path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erssl.data.places import images_digest, is_place
from erssl.errors import ConfigError, RunError
from erssl.files import write_json
from erssl.layers import flat
from erssl.paths import user_path
from erssl.run.directory import CONFIG, RESULTS
from erssl.settings.pretrain import resolved_config
from erssl.settings.resume import may_change

IMAGES = "images.json"  # what the run was trained on, where it was trained for a store
FAILURE = "failure.json"  # why it ended without results


class RunStore:
    """The runs of a folder by what they were asked to be.

    Attributes:
        folder: The folder, which need not exist yet.
        unread: Run directories whose settings could not be read, with the reason.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the settings of every run in the folder."""
        self.folder = user_path(folder)
        self.unread: dict[Path, str] = {}
        self._runs: dict[str, Path] = {}
        for config in sorted(self.folder.glob(f"*/{CONFIG}")):
            try:
                key = key_of(resolved_config(config), self._digest_of(config.parent))
            except (ConfigError, RunError) as error:
                self.unread[config.parent] = str(error)
                continue
            if key not in self._runs or is_finished(config.parent):
                self._runs[key] = config.parent

    def place(self, key: str, method: str) -> Path:
        """Where the run of a key lies, or shall lie."""
        return self._runs.get(key) or self.folder / f"{method}-{key[:12]}"

    def _digest_of(self, run: Path) -> str | None:
        try:
            digest = json.loads((run / IMAGES).read_text(encoding="utf-8"))["digest"]
        except (OSError, ValueError, KeyError, TypeError):  # a run that was trained by hand
            return None
        return str(digest)


def is_finished(run: Path) -> bool:
    """Whether a run directory holds results."""
    return (run / RESULTS).is_file()


def key_of(config: Mapping[str, Any], images: str | None = None) -> str:
    """Digest of what a run computes.

    Args:
        config: Its fully resolved settings.
        images: Digest of its images, by :func:`~erssl.data.places.images_digest`; ``None`` to
            read their folders now.

    Returns:
        SHA-256 in hexadecimal.
    """
    counted = {
        key: _plain(value)
        for key, value in flat(config).items()
        if not (may_change(key) or is_place(key) or _is_empty(value))
    }
    counted["images"] = images or images_digest(config["data"])
    text = json.dumps(counted, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def mark_images(run: Path, digest: str) -> None:
    """Keep the digest of a run's images beside it, so that it is found where they are gone."""
    write_json(run / IMAGES, {"digest": digest})


def mark_failure(run: Path, reason: str) -> None:
    """Keep why a run ended without results, so that it is not trained again unasked."""
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / FAILURE, {"reason": reason})


def failure_of(run: Path) -> str | None:
    """Why a run ended without results; ``None`` for one that did not."""
    try:
        return str(json.loads((run / FAILURE).read_text(encoding="utf-8"))["reason"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return "it failed, and why cannot be read"


def _plain(value: Any) -> Any:
    """A value as it counts: 1 and 1.0 are one number, which a file need not tell apart."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return float(value) if type(value) is int else value


def _is_empty(value: object) -> bool:
    """Whether a value is that of a key that nobody has set, which an older run may not have."""
    return value is None or value == [] or value == {}
