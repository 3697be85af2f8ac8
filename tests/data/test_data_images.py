"""Reading images: against Pillow, torchvision's own loader and known values."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from torchvision.datasets.folder import pil_loader

from erssl.data import find_unreadable, load_image
from erssl.errors import DataError

from .data_images import noise, truncate


def _transparent_palette() -> Image.Image:
    image = noise().quantize(16)
    image.info["transparency"] = bytes(range(0, 256, 16))
    return image


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("rgb.png", noise()),
        ("rgb.jpg", noise()),
        ("grey.png", noise().convert("L")),
        ("grey.jpg", noise().convert("L")),
        ("bits.png", noise().convert("1")),
        ("palette.png", noise().quantize(16)),
        ("transparent_palette.png", _transparent_palette()),
        ("grey_alpha.png", noise().convert("LA")),
        ("alpha.png", noise().convert("RGBA")),
        ("cmyk.jpg", noise().convert("CMYK")),
        ("cmyk.tif", noise().convert("CMYK")),
        ("lossless.webp", noise()),
    ],
)
def test_eight_bit_modes_equal_torchvisions_loader(tmp_path: Path, name: str, image) -> None:
    path = tmp_path / name
    image.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = load_image(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pil_loader(path)
    assert ours.mode == "RGB"
    assert ours.size == image.size
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_not_cut(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(values).save(path)
    red, green, blue = np.asarray(load_image(path)).transpose(2, 0, 1)
    np.testing.assert_array_equal(red, np.arange(256).reshape(16, 16))  # 65535 / 255 = 257 a step
    np.testing.assert_array_equal(red, green)
    np.testing.assert_array_equal(red, blue)
    # What this guards against: Pillow's own conversion loses nearly all of the range.
    assert (np.asarray(pil_loader(path))[..., 0] == 255).mean() > 0.9


def test_thirty_two_bit_grey_uses_the_range_of_sixteen(tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    Image.fromarray(np.array([[0, 257, 65535, 70000]], dtype=np.int32)).save(path)
    assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 1, 255, 255]


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
@pytest.mark.parametrize("most", [255, 4095])
def test_low_ranges_of_deep_files_are_scaled_with_a_warning(tmp_path: Path, kind, most) -> None:
    path = tmp_path / "deep.tif"
    values = np.array([[0, 1, most // 3, most // 2, most]], dtype=kind)
    Image.fromarray(values).save(path)
    with pytest.warns(UserWarning, match=f"no value above {most} are read"):
        red = np.asarray(load_image(path))[0, :, 0]
    np.testing.assert_array_equal(red, np.rint(values[0] * (255.0 / most)))


@pytest.mark.parametrize("values", [[0, 4096], [0, 0]])
def test_other_ranges_are_those_of_sixteen_bits_without_a_warning(tmp_path: Path, values) -> None:
    path = tmp_path / "deep.tif"
    Image.fromarray(np.array([values], dtype=np.uint16)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        red = np.asarray(load_image(path))[0, :, 0]
    np.testing.assert_array_equal(red, np.rint(np.array(values) / 257))


def test_floating_point_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "float.tif"
    Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32)).save(path)
    with pytest.raises(DataError, match=r"float\.tif cannot be read \(floating-point"):
        load_image(path)
    assert [p for p, _ in find_unreadable([path])] == [str(path)]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    path = tmp_path / f"moving.{suffix}"
    red.save(path, save_all=True, append_images=[blue, blue], lossless=True)
    with Image.open(path) as image:
        assert image.n_frames >= 2
    image = load_image(path)
    assert (image.mode, image.size) == ("RGB", (8, 8))
    assert image.getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tif", "ppm"])
def test_truncated_files_are_found(tmp_path: Path, suffix: str) -> None:
    whole, part = tmp_path / f"whole.{suffix}", tmp_path / f"part.{suffix}"
    for path in (whole, part):
        noise((64, 48)).save(path)
    truncate(part)
    [(path, reason)] = find_unreadable([whole, part], workers=2)
    assert path == str(part)
    assert reason
    with pytest.raises(DataError, match=f"part.{suffix} cannot be read"):
        load_image(part)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.95, 0.999, 1.0])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_reduced_jpeg_decoding_sees_what_full_decoding_sees(
    tmp_path: Path, share: float, progressive: bool, mode: str
) -> None:
    path = tmp_path / "image.jpg"
    noise((200, 150)).convert(mode).save(path, progressive=progressive)
    truncate(path, share)
    try:
        load_image(path)
        readable = True
    except DataError:
        readable = False
    assert (find_unreadable([path]) == []) == readable
    assert readable or share < 1


def test_every_fault_is_named_in_order(tmp_path: Path) -> None:
    good, empty, text, missing = (
        tmp_path / f"{n}.jpg" for n in ("good", "empty", "text", "missing")
    )
    noise().save(good)
    empty.touch()
    text.write_text("not an image at all, whatever the name says")
    assert find_unreadable([empty, good, text, missing], workers=3) == [
        (str(empty), "empty file"),
        (str(text), "not an image"),
        (str(missing), "no such file"),
    ]
    assert find_unreadable([]) == []


def test_truncation_is_found_even_where_another_library_lets_it_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "part.jpg"
    noise((64, 48)).save(path)
    truncate(path)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    load_image(path)
    assert len(find_unreadable([path])) == 1
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_message_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    with pytest.raises(DataError) as caught:
        load_image(path)
    assert str(caught.value) == (
        f"the image {path} cannot be read (empty file); repair or remove it."
    )
