"""Which files of a folder are images: every extension that Pillow reads, and counts of the rest."""

import io
import os
import sys
import tarfile
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from erssl.data import default_options, formats, load_datasets, load_image
from erssl.data.folders import scan_folder
from erssl.data.images import find_unreadable, warn_of_pages
from erssl.data.tars import TarImages
from erssl.errors import DataError, ErsslWarning
from erssl.protocols.header import image_lines
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


def test_images_without_an_extension_are_named_with_the_one_they_need(make_folder, tmp_path):
    folder = make_folder(count=2)
    noise().save(folder / "cat" / "first", format="JPEG")
    noise().save(folder / "dog" / "second", format="PNG")
    os.mkfifo(folder / "dog" / "pipe")  # which nobody may wait for
    (folder / "dog" / "README").write_text("GIF is no image here")
    with pytest.warns(
        ErsslWarning, match=r"2 images .*what they hold .*first to .*first\.jpg, .*second\.png"
    ):
        found = scan_folder("data.train_dir", folder)
    assert len(found.samples) == 4
    assert dict(found.left_out) == {
        "images without an extension": 2,
        "no extension": 2,
        "hidden": 0,
    }
    alone = tmp_path / "alone"
    alone.mkdir()
    noise().save(alone / "only", format="WEBP")
    with pytest.raises(DataError, match=r"holds no images .* but 1 image .*it holds .*only\.webp"):
        scan_folder("data.train_dir", alone)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder / "cat" / "0.png", "0.png")
        tar.add(folder / "cat" / "first", "a/first")
    with pytest.warns(ErsslWarning, match=r"data\.shards has 1 image .*a/first\.jpg"):
        assert TarImages([tmp_path / "a.tar"]).left_out["images without an extension"] == 1


PAGES = [("tif", {}), ("gif", {}), ("webp", {"lossless": True}), ("png", {})]


@pytest.mark.parametrize(("ending", "how"), PAGES)
def test_of_several_pages_the_first_is_read_and_said(make_folder, ending, how):
    folder = make_folder(count=2)
    pages = [noise(seed=seed).quantize() for seed in (1, 2, 3)]  # palettes, for GIF
    file = folder / "cat" / f"pages.{ending}"
    pages[0].save(file, save_all=True, append_images=pages[1:], **how)
    with Image.open(file) as stored:
        assert stored.n_frames == 3
        first = np.asarray(stored.convert("RGB"))
    with pytest.warns(ErsslWarning, match="the first alone is read"):
        np.testing.assert_array_equal(np.asarray(load_image(file)), first)
    with warnings.catch_warnings(record=True) as said:  # which forgets what was said before
        warnings.simplefilter("always")
        load_image(file)
        images = load_datasets(default_options("imagefolder", train_dir=str(folder)))
    assert said == []
    warn_of_pages.cache_clear()
    with pytest.warns(ErsslWarning, match="the first alone is read"):  # at the check already
        load_datasets(default_options("imagefolder", train_dir=str(folder)))
    assert images.several_pages == {"train": 1}
    assert "Several pages or frames in train: 1 image, of which the first is read" in image_lines(
        images
    )


def test_of_more_channels_of_a_tiff_three_are_read_and_said(make_folder):
    folder = make_folder(count=2)
    levels = np.random.default_rng(0).integers(0, 256, (40, 40, 4), dtype=np.uint8)
    four = Image.fromarray(levels)
    four.save(folder / "cat" / "four.tif")
    four.save(folder / "cat" / "alpha.png")
    four.convert("RGB").convert("CMYK").save(folder / "cat" / "print.tif")
    with pytest.warns(
        ErsslWarning, match=r"first three are read.*such as data\.channels=4, takes all"
    ):
        image = load_image(folder / "cat" / "four.tif")
    np.testing.assert_array_equal(np.asarray(image), levels[..., :3])
    images = load_datasets(default_options("imagefolder", train_dir=str(folder)))
    assert images.further_channels == {"train": 1}
    assert (
        "More than 3 channels in train: 1 TIFF image, of which the first three are read; "
        in "".join(image_lines(images))
    )


def test_previews_that_a_camera_puts_into_a_jpeg_are_no_pages(tmp_path):
    noise().save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[noise((8, 8))])
    with Image.open(tmp_path / "a.jpg") as stored:
        assert stored.format == "MPO"
        assert stored.n_frames == 2
    several = []
    assert find_unreadable([tmp_path / "a.jpg"], several=several) == several == []


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


@pytest.fixture
def fresh_formats():
    """Formats are asked for once a process; here they are asked for anew, before and after."""

    def forget():
        for kept in (formats.image_formats, formats.image_extensions, formats._readable):
            kept.cache_clear()

    forget()
    yield
    forget()


@pytest.mark.parametrize("installed", [True, False])
def test_a_plugin_of_the_user_reads_its_format_and_without_it_files_are_counted(
    make_folder, monkeypatch, fresh_formats, installed
):
    """A stand-in for pillow_heif, whose opener takes PNG bytes for HEIC ones."""
    folder = make_folder(classes=("a",), count=2)
    (folder / "a" / "0.png").rename(folder / "a" / "0.heic")
    (folder / "a" / "2.jxl").write_bytes(b"no plugin at all")

    class Heif(PngImagePlugin.PngImageFile):
        format = "HEIF"

    plugin = ModuleType("pillow_heif")
    plugin.register_heif_opener = lambda: Image.register_open("HEIF", Heif)
    plugin.__spec__ = ModuleSpec("pillow_heif", None)
    Image.init()  # all that Pillow brings, lest they register with the copy alone
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    for package in ("pillow_heif", "pi_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, package, None)
    if installed:
        monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    options = default_options("imagefolder", train_dir=str(folder), num_workers=0)
    images = load_datasets(options)
    counted = images.left_out["train"]
    assert len(images.train) == (2 if installed else 1)
    assert counted["extension .jxl"] == 1
    assert counted["extension .heic"] == (0 if installed else 1)
