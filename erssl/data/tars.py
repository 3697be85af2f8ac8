"""Images in tars: found once, read one by one."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import tarfile
import urllib.request
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from erssl.data.formats import HEAD, image_extensions
from erssl.data.images import decode_image
from erssl.data.left_out import LeftOut
from erssl.errors import DataError
from erssl.paths import erssl_home, user_path

_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}|\{([^{}]*,[^{}]*)\}")
_BLOCK = 2**20
_SECONDS = 60
_MOST_SHARDS = 1_000_000  # a hundred times those of LAION-400M; more is a slip of the pen


def shard_files(shards: str) -> list[Path]:
    """Files of shards, those of https addresses fetched.

    Args:
        shards: Paths or addresses, separated by spaces, with braces.

    Raises:
        DataError: If one is an address of another kind, does not exist, or cannot be fetched.
    """
    names = [name for part in shards.split() for name in expanded(part)]
    for name in names:  # before anything is fetched
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", name)
        if scheme and not name.startswith("https://"):
            raise DataError(
                f"data.shards has {name!r}, an address of the kind {scheme[1]}:, which is not "
                "read; give paths of tars, or https addresses."
            )
        if not scheme and not user_path(name).is_file():
            raise DataError(f"data.shards has {name!r}, which is no file; give paths of tars.")
    return [_fetched(n) if n.startswith("https://") else user_path(n) for n in names]


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


class TarImages(Dataset[tuple[Image.Image, int]]):
    """The images of tars, in the order of files and members.

    Attributes:
        targets: Zeros (N,), for there are no labels.
        left_out: Number of members that are no images, by reason.
        fingerprint: What tells that the images have changed.
    """

    def __init__(self, files: Sequence[Path], grey: bool = False) -> None:
        """Find the images; nothing is decoded yet.

        Args:
            files: Tars, not compressed as a whole.
            grey: Whether to give one channel.

        Raises:
            DataError: If a file is no such tar, ends early, or there are no images.
        """
        self.files = list(files)
        self.grey = grey
        left_out = LeftOut()
        self._members: list[tuple[int, str]] = []
        places: list[tuple[int, int]] = []
        for number, file in enumerate(self.files):
            for name, start, size in _members(file, left_out):
                self._members.append((number, name))
                places.append((start, size))
        if not places:
            raise DataError(
                f"The tars of data.shards hold no images ({', '.join(image_extensions())}), as "
                f"{self.files[0] if self.files else 'there are none'}"
                f"{f', but {left_out.advice()}' if left_out.unnamed else ''}; name others."
            )
        left_out.warn("data.shards")
        self.left_out: Counter[str] = left_out.counts
        self._places = np.asarray(places, dtype=np.int64)
        self.targets = np.zeros(len(places), dtype=np.int64)
        stats = [(os.path.abspath(f), os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files]
        self.fingerprint = repr((stats, grey))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Read one image.

        Raises:
            DataError: If it cannot be read.
        """
        number, name = self._members[index]
        start, size = self._places[index].tolist()
        with self.files[number].open("rb") as file:
            file.seek(start)
            data = file.read(size)
        return decode_image(data, f"{self.files[number]}/{name}", grey=self.grey), 0


def _members(file: Path, left_out: LeftOut) -> list[tuple[str, int, int]]:
    """Name, first byte and size of each image in a tar."""
    images = []
    size = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                if not member.isreg():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                extension = os.path.splitext(member.name)[1].lower()
                if os.path.basename(member.name).startswith("."):
                    left_out.hide()
                elif extension in image_extensions() and not member.issparse():
                    images.append((member.name, member.offset_data, member.size))
                else:
                    left_out.add(member.name, partial(_first_bytes, file, member.offset_data))
            end = tar.offset
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise DataError(
            f"The tar {file} cannot be read to its end ({error}); it is damaged, compressed or no "
            "tar, so fetch or write it again."
        ) from error
    with file.open("rb") as raw:
        raw.seek(end)
        # tarfile stops in silence where a file is cut between two members or a header is damaged.
        if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise DataError(
                f"The tar {file} ends early, without the blocks of zeros that end a tar; fetch or "
                "write it again."
            )
    return images


def _first_bytes(file: Path, start: int) -> bytes:
    with file.open("rb") as raw:
        raw.seek(start)
        return raw.read(HEAD)


def _fetched(address: str) -> Path:
    """The file of an https address, from the cache where it is there."""
    folder = erssl_home() / "shards"
    name = re.sub(r"[^A-Za-z0-9._-]", "_", address.rpartition("/")[2])
    path = folder / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{name}"
    if path.is_file():
        return path
    from erssl.files import replacing

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer, replacing(path) as part:
            if not answer.geturl().startswith("https://"):
                raise ValueError(f"it leads to {answer.geturl()}")
            length, written = answer.headers.get("Content-Length"), 0
            with part.open("wb") as file:
                while block := answer.read(_BLOCK):
                    written += file.write(block)
            if length is not None and written != int(length):
                raise ValueError(f"{written} of {length} bytes came")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DataError(
            f"data.shards has {address}, which cannot be fetched ({error}); check the network, or "
            "give files that were downloaded elsewhere."
        ) from error
    return path
