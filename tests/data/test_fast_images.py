"""Images whose size is known before they are decoded, against Pillow and load_image."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from erssl.data import ViewOptions, build_views, load_image
from erssl.data.folders import ImageFiles
from erssl.data.views import fast
from erssl.data.views import fast_images as images
from erssl.data.views.draws import read_view
from erssl.data.views.pipelines import make_pipeline
from erssl.errors import DataError

from .data_images import noise, truncate

_MAE = build_views(ViewOptions("mae"), 64, mean=(0,) * 3, std=(1,) * 3)


@cache
def _photo(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg")).resize(size, Image.Resampling.LANCZOS)


def test_reduction_leaves_twice_the_size_of_every_crop() -> None:
    assert images.reduction([(375, 500, 224)]) == 1
    assert images.reduction([(896, 1200, 224)]) == 2
    assert images.reduction([(895, 1200, 224)]) == 1
    assert images.reduction([(4000, 4000, 224), (900, 900, 96)]) == 4
    assert images.reduction([(9000, 9000, 32)]) == 8


@pytest.mark.parametrize("size", [(1600, 1200), (1333, 999)])
def test_a_large_jpeg_is_decoded_smaller_with_the_same_views(size, tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    _photo(size).save(path, quality=92)
    image, _ = images.known_size(ImageFiles([(str(path), 0)]), 0)
    spec = read_view(_MAE.transforms[0])
    row = fast.Drawn((100, 50, 800, 900), False, False, 0, False, (), (), False, 0, False)
    decoded: list[tuple[int, ...]] = []

    def decode(reduced: int) -> np.ndarray:
        decoded.append((reduced, *image.decode(reduced).shape))
        return image.decode(reduced)

    [view] = fast.make_views(replace(image, decode=decode), [spec], [row])
    assert decoded == [(4, -(-size[1] // 4), -(-size[0] // 4), 3)]
    whole = load_image(path).crop((50, 100, 950, 900)).resize((64, 64), Image.Resampling.BICUBIC)
    error = view.astype(int) - np.asarray(whole)
    assert abs(error.mean()) < 0.4
    assert np.abs(error).mean() < 1


def _files(folder: Path) -> list[Path]:
    photo = _photo((90, 61))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, which load_image leaves alone
    photo.save(folder / "turned.jpg", exif=exif)
    photo.save(folder / "progressive.jpg", progressive=True, subsampling=0)
    photo.save(folder / "red-green-blue.jpg", keep_rgb=True)
    photo.convert("L").save(folder / "grey.jpg")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.quantize(32).save(folder / "palette.png")
    photo.convert("RGBA").save(folder / "transparent.webp", lossless=True)
    deep = np.arange(61 * 90, dtype=np.uint16).reshape(61, 90) * 11
    Image.fromarray(deep).save(folder / "deep.png")
    (folder / "odd end.jpg").write_bytes((folder / "grey.jpg").read_bytes() + b"\0\0 and more")
    return sorted(folder.iterdir())


def test_files_are_read_as_by_load_image(tmp_path: Path) -> None:
    files = _files(tmp_path)
    assert len(files) == 9
    for path in files:
        image, target = images.known_size(ImageFiles([(str(path), 7)]), 0)
        assert (image.height, image.width, target) == (61, 90, 7)
        np.testing.assert_array_equal(image.decode(1), np.asarray(load_image(path)), str(path))


@pytest.mark.parametrize("reduced", [1, 2, 4, 8])
def test_plain_jpegs_are_opencvs(reduced: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(images, "load_image", lambda path: pytest.fail(f"{path} went to Pillow"))
    plain = [path for path in _files(tmp_path) if path.suffix == ".jpg"]
    for path in plain:
        if path.stem not in ("cmyk", "odd end"):
            image, _ = images.known_size(ImageFiles([(str(path), 0)]), 0)
            assert image.decode(reduced).shape == (-(-61 // reduced), -(-90 // reduced), 3)


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "void.jpg", "absent.jpg"])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.startswith("cut"):
        noise().save(path)
        truncate(path)
    elif name.startswith("void"):
        path.touch()
    images = ImageFiles([(str(path), 0)])
    drawn = make_pipeline("fast", _MAE).images(images, 0)
    with pytest.raises(DataError, match=rf"{name} cannot be read .*repair or remove it\.$"):
        drawn[0, 0]
