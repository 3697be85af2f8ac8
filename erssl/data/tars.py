"""Images in tars: found once, read one by one."""

from __future__ import annotations

import os
import re
import tarfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from erssl.data.encoded import EncodedImages
from erssl.data.formats import HEAD, image_extensions
from erssl.data.left_out import LeftOut
from erssl.data.listing import is_hidden
from erssl.errors import DataError, ErsslWarning, named, printable

_SAMPLE = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")  # webdataset's key and extension


class TarImages(EncodedImages):
    """The images of tars, in the order of files and members.

    Attributes:
        targets: Zeros (N,), for there are no labels.
        left_out: Number of members that are no images, by reason.
        fingerprint: What tells that the images have changed.
    """

    def __init__(
        self, files: Sequence[Path], grey: bool = False, image_key: str | None = None
    ) -> None:
        """Find the images; nothing is decoded yet.

        Args:
            files: Tars, not compressed as a whole.
            grey: Whether to give one channel.
            image_key: What the names of images have after their first dot, such as ``seg.png``;
                ``None`` takes every image.

        Raises:
            DataError: If a file is no such tar, ends early, or there are no images.
        """
        self.files = list(files)
        self.grey = grey
        left_out = LeftOut()
        self._members: list[tuple[int, str]] = []
        places: list[tuple[int, int]] = []
        contents = [_content(file, image_key, left_out) for file in self.files]
        for number, content in enumerate(contents):
            for name, start, size in content.images:
                self._members.append((number, name))
                places.append((start, size))
        if not places:
            held = ", ".join(f"{reason}: {n}" for reason, n in left_out.counts.most_common(5))
            held = left_out.advice() or held
            wanted = image_key or ", ".join(image_extensions())
            raise DataError(
                f"The tars of data.shards hold no images ({wanted}) but {held or 'nothing'}, as "
                f"{self.files[0] if self.files else 'there are none'}; name others"
                f"{', or another data.image_key' if image_key else ''}."
            )
        _warn(self.files, contents)
        left_out.warn("data.shards")
        self.left_out: Counter[str] = left_out.counts
        self._places = np.asarray(places, dtype=np.int64)
        self.rows = np.arange(len(places))
        self.targets = np.zeros(len(places), dtype=np.int64)
        stats = [(os.path.abspath(f), os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files]
        self.fingerprint = repr((stats, grey) if image_key is None else (stats, grey, image_key))

    def stored(self, row: int) -> bytes:
        """The bytes of an image's file."""
        start, size = self._places[row].tolist()
        with self.files[self._members[row][0]].open("rb") as file:
            file.seek(start)
            return file.read(size)

    def name_of(self, row: int) -> str:
        """Its tar, and its name there."""
        number, name = self._members[row]
        return f"{self.files[number]}/{name}"


@dataclass
class _Content:
    """What a tar holds.

    Attributes:
        images: Name, first byte and size of each image.
        samples: Of each sample, by its key, the extensions of its images.
    """

    images: list[tuple[str, int, int]] = field(default_factory=list)
    samples: dict[str, list[str]] = field(default_factory=dict)


def _content(file: Path, image_key: str | None, left_out: LeftOut) -> _Content:
    """Find the images of a tar, and count its other members."""
    content = _Content()
    size = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                if not member.isreg():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                parts = PurePosixPath(member.name).parts
                if any(is_hidden(part) for part in parts if part != ".."):
                    left_out.hide()
                elif not _add(content, member, image_key, left_out):
                    left_out.add(member.name, partial(_first_bytes, file, member.offset_data))
        check_end(file, tar.offset)
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise DataError(
            f"The tar {file} cannot be read to its end ({error}); it is damaged, compressed or no "
            "tar, so fetch or write it again."
        ) from error
    return content


def _add(
    content: _Content, member: tarfile.TarInfo, image_key: str | None, left_out: LeftOut
) -> bool:
    """Put a file where it belongs; whether it has an image's extension."""
    extension = os.path.splitext(member.name)[1].lower()
    parts = _SAMPLE.fullmatch(member.name)
    own = parts[2].lower() if parts else ""
    of_sample = content.samples.setdefault(parts[1], []) if parts else []
    wanted = image_key is None or own == image_key.lower().lstrip(".")
    if extension not in image_extensions() or member.issparse():
        return False
    if not wanted:
        left_out.counts["another data.image_key"] += 1
    else:
        of_sample.append(own)
        content.images.append((member.name, member.offset_data, member.size))
    return True


def _first_bytes(file: Path, start: int) -> bytes:
    with file.open("rb") as raw:
        raw.seek(start)
        return raw.read(HEAD)


def check_end(file: Path, end: int | None = None) -> None:
    """Make sure that a tar is there to its end.

    tarfile stops in silence where a file is cut between two members or a header is damaged.

    Args:
        file: The tar.
        end: The byte where its last member ends; ``None`` looks for it.

    Raises:
        tarfile.TarError: If it is no tar, or is cut.
    """
    if end is None:
        with tarfile.open(file, "r:") as tar:
            tar.getmembers()
            end = tar.offset
    with file.open("rb") as raw:
        raw.seek(end)
        if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends early, without the blocks of zeros that end a tar")


def _warn(files: Sequence[Path], contents: Sequence[_Content]) -> None:
    """Say what a webdataset should not have: shards and samples without images, or with several."""
    empty = [str(f) for f, content in zip(files, contents, strict=True) if not content.images]
    if empty:
        hold = "holds" if len(empty) == 1 else "hold"
        _say(f"{len(empty)} of the {len(files)} tars of data.shards {hold} no images", empty)
    samples = [item for content in contents for item in content.samples.items()]
    without = [key for key, images in samples if not images]
    if without:
        has = "has" if len(without) == 1 else "have"
        _say(f"{len(without)} of the {len(samples)} samples of data.shards {has} no image", without)
    several = [images for _, images in samples if len(images) > 1]
    if several:
        kinds = sorted({kind for images in several for kind in images})
        _say(
            f"{len(several)} of the {len(samples)} samples of data.shards "
            f"{'has' if len(several) == 1 else 'have'} several images, all of which are trained "
            "on; choose by data.image_key=<one of these>",
            kinds,
        )


def _say(what: str, names: Sequence[str]) -> None:
    warnings.warn(f"{what} ({named(map(printable, names))}).", ErsslWarning, stacklevel=4)
