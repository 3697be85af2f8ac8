"""Image files, damaged and made up, and folders of them with links and pipes."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from erssl.data import default_options, load_datasets
from erssl.data.images import load_image

from . import samples
from .harness import Surface, check
from .strategies import Edit, damaged, edits, names

_SIDES = (0, 1, 12, 5000, 20_000, 2**16, 2**31 - 1)
_PNG, _AT = "RGB.png", 16  # of width and height in its first chunk


@dataclass(frozen=True)
class Declared:
    """A PNG file that says another size, depth or colour type, with the right checksum."""

    width: int
    height: int
    depth: int
    colour: int

    def content(self) -> bytes:
        content = samples.images()[_PNG]
        chunk = b"IHDR" + struct.pack(">IIBB3x", self.width, self.height, self.depth, self.colour)
        return content[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[_AT + 17 :]


_PS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(ran) (w) file\nshowpage\n"
_others = st.sampled_from(
    [
        b"",
        _PS,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"P6\n99999 99999\n255\n",
        b"P3 2 2 255 " + b"9" * 100_000,
        b"GIF89a" + b"\xff" * 60,
        b"\x89PNG\r\n\x1a\n",
        b"PyP\n",
        b"P5 -1 -1 255\n",
        b"icns\x00\x00\x00\x08",
        b"8BPS\x00\x01" + b"\x00" * 30,
    ]
)
_sound = st.tuples(st.integers(0, 15), st.just([]))
_contents = st.one_of(
    _sound,
    st.tuples(st.integers(0, 15), edits),
    st.builds(
        Declared,
        st.sampled_from(_SIDES),
        st.sampled_from(_SIDES),
        st.sampled_from([1, 8, 16, 7]),
        st.sampled_from([0, 2, 3, 4, 6, 9]),
    ),
    _others,
    st.binary(max_size=60),
)
Content = tuple[int, list[Edit]] | Declared | bytes


def _bytes(content: Content) -> bytes:
    if isinstance(content, Declared):
        return content.content()
    if isinstance(content, bytes):
        return content
    return damaged(list(samples.images().values())[content[0]], content[1])


def _act_one(case: tuple[Content, str], folder: Path) -> None:
    content, ending = case
    file = folder / f"image{ending}"
    file.write_bytes(_bytes(content))
    image = load_image(file)
    assert image.mode == "RGB"
    image.load()


_kinds = ["file", "file", "file", "folder", "link up", "link to itself", "pipe", "dangling"]
_folders = st.sampled_from(["train", "train/a", "train/b", "val", "val/a", "val/b", "train/a/a"])
_files = st.sampled_from(["1.png", "2.jpg", "3.tif", "._4.png", "x.txt", "loop", "more"])


def _act_folder(case: tuple[list[tuple[str, str, str, Content]], bool, bool, bool], root: Path):
    entries, verify, skip, with_val = case
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (root / place).mkdir(parents=True)
        (root / place / "0.png").write_bytes(samples.images()[_PNG])
    for place, name, kind, content in entries:
        try:
            _put(root / place / name.replace("/", "_"), kind, content)
        except (OSError, ValueError):
            continue  # a name that no file can have
    options = default_options(
        "imagefolder",
        train_dir=str(root / "train"),
        val_dir=str(root / "val") if with_val else None,
        verify=verify,
        on_error="skip" if skip and verify else "raise",
        num_workers=0,
    )
    datasets = load_datasets(options)
    for data in (datasets.train, datasets.val):
        for index in range(len(data) if data is not None else 0):
            data[index]  # type: ignore[index]


def _put(target: Path, kind: str, content: Content) -> None:
    if os.path.lexists(target) and kind == "file":
        target.unlink()
    if kind == "pipe":
        target.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir(parents=True)
    elif kind == "link up":
        target.symlink_to("..", target_is_directory=True)
    elif kind == "link to itself":
        target.symlink_to(target.name)
    elif kind == "dangling":
        target.symlink_to("/nowhere/at/all.png")
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_bytes(content))


SURFACES = [
    Surface(
        "images",
        st.tuples(_contents, st.sampled_from([".png", ".jpg", ".tiff", ".gif", ""])),
        _act_one,
        share=34,
        prepare=samples.images,
    ),
    Surface(
        "image folders",
        st.tuples(
            st.lists(
                st.tuples(
                    _folders,
                    st.one_of(_files, _files, names),
                    st.sampled_from(_kinds),
                    st.one_of(_sound, _sound, _sound, _contents),
                ),
                max_size=4,
            ),
            st.booleans(),
            st.booleans(),
            st.booleans(),
        ),
        _act_folder,
        share=12,
        prepare=samples.images,
    ),
]


def test_any_image_is_read_or_refused() -> None:
    check(SURFACES[0], 150)


def test_any_folder_is_read_or_refused() -> None:
    check(SURFACES[1], 60)
