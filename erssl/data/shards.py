"""Where shards are: paths with braces, and https addresses, which are fetched."""

from __future__ import annotations

import hashlib
import http.client
import re
import tarfile
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

from erssl.data.tars import check_end
from erssl.errors import DataError
from erssl.files import replacing
from erssl.paths import erssl_home, user_path

_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}|\{([^{}]*,[^{}]*)\}")
_HTTPS = "https://"
_BLOCK = 2**20
_SECONDS = 60  # without an answer
_MOST_SHARDS = 1_000_000  # a hundred times those of LAION-400M; more is a slip of the pen


def shard_files(shards: str) -> list[Path]:
    """Files of shards, those of https addresses fetched.

    Args:
        shards: Paths or addresses, separated by spaces, with braces.

    Raises:
        DataError: If one is an address of another kind, does not exist, or cannot be fetched.
    """
    names = _names(shards)
    for name in names:  # before anything is fetched
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", name)
        if scheme and not name.startswith(_HTTPS):
            raise DataError(
                f"data.shards has {name!r}, an address of the kind {scheme[1]}:, which is not "
                "read; give paths of tars, or https addresses."
            )
        if not scheme and not user_path(name).is_file():
            raise DataError(f"data.shards has {name!r}, which is no file; give paths of tars.")
    return [_fetched(n) if n.startswith(_HTTPS) else user_path(n) for n in names]


def are_there(shards: str) -> bool:
    """Whether all files of shards exist; of addresses that is taken on trust."""
    return all(name.startswith(_HTTPS) or user_path(name).is_file() for name in _names(shards))


@cache
def shards_digest(shards: str) -> bytes:
    """Digest of the names and sizes of what lies in shards, in their order and wherever they lie.

    Of an address, whether it has been fetched or not, and of what is no tar, its name. Read once a
    process.

    Args:
        shards: As :func:`shard_files` takes them.
    """
    digest = hashlib.sha256()
    for name in _names(shards):
        try:
            with tarfile.open(user_path(name), "r:") as tar:
                for member in tar:
                    digest.update(f"{member.name}:{member.size}\n".encode(errors="replace"))
        except (tarfile.TarError, EOFError, OSError, ValueError):  # said where images are read
            digest.update(f"{name}\n".encode(errors="surrogateescape"))
    return digest.digest()


def _names(shards: str) -> list[str]:
    """Every path and address of shards."""
    return [name for part in shards.split() for name in expanded(part)]


def expanded(pattern: str) -> list[str]:
    """The names that a pattern with ``{000..127}`` or ``{a,b}`` stands for, in order.

    Raises:
        DataError: If they are too many to be meant.
    """
    if (count := _count(pattern)) > _MOST_SHARDS:
        raise DataError(
            f"data.shards has {pattern}, which stands for {count:,} files; give a pattern of at "
            f"most {_MOST_SHARDS:,}."
        )
    return _expanded(pattern)


def _count(pattern: str) -> int:
    """Number of names that a pattern stands for."""
    count = 1
    while match := _RANGE.search(pattern):
        first, last, listed = match.groups()
        inner = len(listed.split(",")) if listed else max(0, int(last) - int(first) + 1)
        count *= inner
        pattern = f"{pattern[: match.start()]}-{pattern[match.end() :]}"
    return count


def _expanded(pattern: str) -> list[str]:
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last, listed = match.groups()
    if listed is None:
        inner = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    else:
        inner = listed.split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for each in inner for name in _expanded(f"{before}{each}{after}")]


def _fetched(address: str) -> Path:
    """The file of an https address, from the cache where it is there."""
    folder = erssl_home() / "shards"
    name = re.sub(r"[^A-Za-z0-9._-]", "_", address.rpartition("/")[2])
    path = folder / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{name}"
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opener = urllib.request.build_opener(_HttpsAlone)
        with opener.open(address, timeout=_SECONDS) as answer, replacing(path) as part:
            length, written = answer.headers.get("Content-Length"), 0
            with part.open("wb") as file:
                while block := answer.read(_BLOCK):
                    written += file.write(block)
            if length is not None and written != int(length):
                raise ValueError(f"{written} of {length} bytes came")
            check_end(part)
    except (OSError, ValueError, tarfile.TarError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"data.shards has {address}, which cannot be fetched ({reason}); check the network, or "
            "give files that were downloaded elsewhere."
        ) from error
    return path


class _HttpsAlone(urllib.request.HTTPRedirectHandler):
    """Follows no address that leads away from https, before anything is asked there."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Give the next request.

        Raises:
            ValueError: If it is of another kind.
        """
        if not newurl.startswith(_HTTPS):
            raise ValueError(f"it leads to {newurl}, which is no https address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
