"""Where images lie, and whether two places hold the same ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from erssl.data.registry import available_datasets, get_dataset
from erssl.data.shards import are_there, shards_digest
from erssl.paths import user_path

_HUB = "path"  # a folder, or the name of a data set on a hub
_SHARDS = "shards"  # tars, by paths with braces or by addresses
_PLACES = ("root", "file", _HUB, "folder", _SHARDS)  # options that say where images are, and these:
_ENDINGS = ("_dir", "_file")


def is_place(key: str) -> bool:
    """Whether a dotted key of a run's settings says where images are."""
    group, _, name = key.partition(".")
    return group == "data" and (name in _PLACES or name.endswith(_ENDINGS))


def is_same_everywhere(name: str) -> bool:
    """Whether a data set is the same wherever it lies."""
    return name in available_datasets() and get_dataset(name).same_everywhere


def is_moved(key: str, new: str, old: str) -> bool:
    """Whether a place holds what another one held; of one that is gone that is taken on trust.

    Args:
        key: The dotted key of both.
        new: Where the images are said to be now.
        old: Where they were. A name on a hub is never gone.
    """
    name = key.removeprefix("data.")
    if not _is_there(name, new):
        return False
    gone = not _is_there(name, old) and name != _HUB
    return gone or _content(name, new) == _content(name, old)


def images_digest(data: Mapping[str, Any]) -> str:
    """Digest of what a run's images are: relative paths and sizes in folders and tars, or a table.

    Of a data set that is the same wherever it lies, its name.

    Args:
        data: The run's settings of data.
    """
    name = str(data["name"])
    if is_same_everywhere(name):
        return name
    digest = hashlib.sha256(name.encode())
    for key in sorted(data):
        if is_place(f"data.{key}") and data[key]:
            digest.update(f"|{key}|".encode())
            digest.update(_content(key, str(data[key])))
    return digest.hexdigest()


def _is_there(name: str, value: str) -> bool:
    """Whether there is what an option names; of an address that is taken on trust."""
    return are_there(value) if name == _SHARDS else os.path.exists(user_path(value))


def _content(name: str, value: str) -> bytes:
    """Digest of what an option names."""
    return shards_digest(value) if name == _SHARDS else content_of(str(user_path(value)))


@cache
def content_of(place: str) -> bytes:
    """Digest of a file's bytes, or of the names and sizes below a folder, read once a process."""
    digest = hashlib.sha256()
    if os.path.isfile(place):
        with open(place, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    elif os.path.isdir(place):
        for line in sorted(_lines(place, len(place), ())):
            digest.update(line)
    else:  # such as the name of a data set on a hub
        digest.update(place.encode(errors="surrogateescape"))
    return digest.digest()


def _lines(folder: str, start: int, above: tuple[str, ...]) -> list[bytes]:
    """Path and size of every file below a folder; not of a link to a folder that it lies in."""
    real = os.path.realpath(folder)
    if real in above:
        return []
    lines = []
    try:
        entries = list(os.scandir(folder))
    except OSError:  # said where the images are read
        return []
    for entry in entries:
        try:
            if entry.is_dir():
                lines += _lines(entry.path, start, (*above, real))
                continue
            size = str(entry.stat().st_size)
        except OSError:  # a link to nothing, or to itself
            size = "none"
        lines.append(os.fsencode(f"{entry.path[start:]}:{size}\n"))
    return lines
