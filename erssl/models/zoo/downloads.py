"""Fetching a published file whole, or not at all."""

from __future__ import annotations

import hashlib
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import torch

from erssl.errors import DataError
from erssl.files import replacing
from erssl.models.weights_files import one_line
from erssl.models.zoo.rows import ZooRow

_CHUNK = 2**20
_SECONDS = 30


def download(row: ZooRow, file: Path) -> None:
    """Fetch a row's file with a progress bar; what is not whole and right is not kept.

    Args:
        row: A row with a ``url``.
        file: Where to put it.

    Raises:
        DataError: If it cannot be fetched, with the way by hand, or is not what the row describes.
    """
    assert row.url is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(file) as partial:
            torch.hub.download_url_to_file(row.url, str(partial), progress=True)
            _check_whole(row, partial)
            check_sums(partial, row, fetched=True)
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise DataError(
            f"{row.url}, the weights of {row.name}, cannot be fetched ({one_line(error)}); "
            f"download it where there is a network and put the file at {file}."
        ) from error


def check_sums(file: Path, row: ZooRow, fetched: bool = False) -> None:
    """Compare a file with the checksums that are known of it.

    Args:
        file: The file.
        row: The row, which may have none.
        fetched: Whether it was downloaded right now and will not be kept.

    Raises:
        DataError: If it is another file, saying what to do.
    """
    for kind, expected in (("sha256", row.sha256), ("md5", row.md5)):
        if not expected:
            continue
        digest = file_digest(file, kind)
        if digest.startswith(expected):
            continue
        mismatch = f"{kind} {digest[: len(expected)]} in place of {expected}"
        if fetched:
            raise DataError(
                f"What {row.url} gives is not the published file of {row.name} ({mismatch}); it "
                "was not kept. Try again, or ask its authors."
            )
        if row.file is not None and Path(row.file) == file:
            raise DataError(
                f"{file} was changed since it was added to the zoo as {row.name} ({mismatch}); add "
                "the run again with erssl zoo add <run directory> overwrite=true."
            )
        raise DataError(
            f"{file} is not the published file of {row.name} ({mismatch}); delete the file at "
            f"{file} to have it downloaded again."
        )


def file_digest(file: Path, kind: str = "sha256") -> str:
    """Hexadecimal digest of a file of any size.

    Args:
        file: The file.
        kind: A name that :mod:`hashlib` knows.
    """
    digest = hashlib.new(kind, usedforsecurity=False)
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _check_whole(row: ZooRow, file: Path) -> None:
    """Compare sizes where no checksum is known: a lost connection looks like the end of a file."""
    size = file.stat().st_size
    if row.sha256 or row.md5 or row.url is None or not row.url.startswith("http"):
        announced = None
    else:
        announced = _announced_size(row.url)
    if size == 0 or (announced is not None and size != announced):
        raise DataError(
            f"{row.url} broke off after {size} of {announced or 'unknown'} bytes; what came was "
            "not kept. Try again."
        )


def _announced_size(url: str) -> int | None:
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_SECONDS) as answer:
            length = answer.headers.get("Content-Length")
            return int(length) if length else None
    except (URLError, HTTPException, OSError, ValueError):
        return None  # not every server answers
