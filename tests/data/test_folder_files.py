"""Which files of a folder are images: every extension that Pillow reads, and counts of the rest."""

import io
import os

import numpy as np
import pytest
from PIL import Image, features

from erssl.data import default_options, load_datasets, load_image
from erssl.data.folders import scan_folder
from erssl.run.console import say

from .data_images import noise, truncate


@pytest.mark.parametrize(
    ("name", "kind", "decoder"),
    [
        ("a.jfif", "JPEG", "jpg"),
        ("a.jpe", "JPEG", "jpg"),
        ("a.JPEG", "JPEG", "jpg"),
        ("a.TIF", "TIFF", "zlib"),
        ("a.webp", "WEBP", "webp"),
        ("a.avif", "AVIF", "avif"),
        ("a.jp2", "JPEG2000", "jpg_2000"),
    ],
)
def test_every_extension_of_a_known_format_is_read(tmp_path, name, kind, decoder):
    if not features.check(decoder):
        pytest.skip(f"this Pillow has no {decoder}")
    noise((32, 24)).save(tmp_path / name, format=kind)
    assert [os.path.basename(path) for path, _ in scan_folder("x", tmp_path).samples] == [name]
    with Image.open(tmp_path / name) as stored:
        expected = np.asarray(stored.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / name)), expected)


def test_what_is_left_out_is_counted_by_reason(make_folder):
    folder = make_folder(count=2)
    cat = folder / "cat"
    for name in ("notes.txt", "more.TXT", "README", "photo.psd", "._0.png"):
        (cat / name).write_bytes(b"?")
    (cat / ".thumbnails").mkdir()
    noise().save(cat / ".thumbnails" / "0.png")
    (folder / ".cache").mkdir()
    truncate(folder / "dog" / "1.png")
    images = load_datasets(default_options("imagefolder", train_dir=str(folder), on_error="skip"))
    assert len(images.train) == 3
    assert dict(images.left_out["train"]) == {
        "extension .txt": 2,
        "extension .psd": 1,
        "no extension": 1,
        "hidden": 3,
        "unreadable": 1,
    }


def test_class_names_that_are_no_utf8_can_be_written(make_folder, tmp_path):
    try:
        folder = make_folder(classes=(b"caf\xe9".decode("utf-8", "surrogateescape"), "tea"))
    except (OSError, UnicodeError):
        pytest.skip("this file system keeps names in UTF-8")
    images = scan_folder("x", folder)
    assert images.class_names == ("caf\\udce9", "tea")
    assert [load_image(path).size for path, _ in images.samples]  # the files by their own names


def test_names_are_printed_as_they_are():
    from rich.console import Console

    console = Console(width=20, file=io.StringIO(), record=True)
    say(console, "runs[lr0.1]/a[/b]/:cat: \udce9 of a long name\nnot a line", style="yellow")
    assert console.export_text() == "runs[lr0.1]/a[/b]/:cat: \\udce9 of a long name not a line\n"
