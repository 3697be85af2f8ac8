"""A store of runs: pretrainings of equal settings are never trained twice.

A store is a folder of run directories. A run is found by its resolved settings, whatever its
folder is called, so that a run of ``erssl pretrain`` may be laid beside the others. Settings that
say where and how a run works, not what it computes, do not count, and image folders count by what
is in them, not by their path.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from erssl.data.registry import available_datasets, get_dataset
from erssl.errors import ConfigError, RunError
from erssl.files import write_json
from erssl.layers import flat
from erssl.paths import user_path
from erssl.run.directory import CONFIG, RESULTS
from erssl.settings.pretrain import resolved_config
from erssl.settings.resume import may_change

IMAGES = "images.json"  # what the run was trained on, where it was trained for a store
FAILURE = "failure.json"  # why it ended without results
_NOT_COUNTED = ("data.download", "data.verify")
_PLACES = ("root", "file", "path", "folder")  # options that name where images are, and these:
_ENDINGS = ("_dir", "_file")


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
        images: Digest of its images, by :func:`images_digest`; ``None`` to read their folders now.

    Returns:
        SHA-256 in hexadecimal.
    """
    counted = {
        key: _plain(value)
        for key, value in flat(config).items()
        if not (may_change(key) or key in _NOT_COUNTED or _is_place(key) or _is_empty(value))
    }
    counted["images"] = images or images_digest(config["data"])
    text = json.dumps(counted, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def images_digest(data: Mapping[str, Any]) -> str:
    """Digest of what a run's images are: relative paths and sizes in folders, the bytes of a table.

    Of a data set that is the same wherever it lies, its name.

    Args:
        data: The run's settings of data.
    """
    name = str(data["name"])
    if name in available_datasets() and get_dataset(name).same_everywhere:
        return name
    digest = hashlib.sha256(name.encode())
    for key in sorted(data):
        if _is_place(f"data.{key}") and data[key]:
            digest.update(f"|{key}|".encode())
            digest.update(_content(str(user_path(data[key]))))
    return digest.hexdigest()


def _is_place(key: str) -> bool:
    group, _, name = key.partition(".")
    return group == "data" and (name in _PLACES or name.endswith(_ENDINGS))


@cache
def _content(place: str) -> bytes:
    """Digest of a file's bytes, or of the names and sizes below a folder, read once a process."""
    digest = hashlib.sha256()
    if os.path.isfile(place):
        with open(place, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    elif os.path.isdir(place):
        for line in sorted(_lines(place, len(place))):
            digest.update(line)
    else:  # such as the name of a data set on a hub
        digest.update(place.encode(errors="surrogateescape"))
    return digest.digest()


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


def _lines(folder: str, start: int) -> list[bytes]:
    lines = []
    try:
        entries = list(os.scandir(folder))
    except OSError:  # said where the images are read
        return []
    for entry in entries:
        if entry.is_dir():
            lines += _lines(entry.path, start)
        else:
            lines.append(os.fsencode(f"{entry.path[start:]}:{entry.stat().st_size}\n"))
    return lines


def _plain(value: Any) -> Any:
    """A value as it counts: 1 and 1.0 are one number, which a file need not tell apart."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return float(value) if type(value) is int else value


def _is_empty(value: object) -> bool:
    """Whether a value is that of a key that nobody has set, which an older run may not have."""
    return value is None or value == [] or value == {}
