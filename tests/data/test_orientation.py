"""EXIF orientation: against Pillow's own ``exif_transpose``, and the same in every pipeline."""

import dataclasses

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps

from erssl.data import default_options, load_datasets, load_image
from erssl.data.folders import ImageFiles
from erssl.data.orientation import turned_pixels, upright_size
from erssl.errors import ConfigError
from erssl.evaluation.fingerprints import data_digest
from erssl.settings.pretrain import read_settings, run_settings

from .data_images import noise
from .test_registry import plain

ORIENTATIONS = range(1, 9)


def _turned(path, orientation, size=(40, 24)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(size).save(path, exif=exif.tobytes())
    return path


def _upright(path):
    """Pixels as Pillow's own function turns them; a TIFF is turned by its loading alone."""
    with Image.open(path) as image:
        image.load()
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_images_are_turned_as_pillow_turns_them(tmp_path, suffix, orientation):
    path = _turned(tmp_path / f"a.{suffix}", orientation)
    ours = load_image(path, upright=True)
    expected = _upright(path)
    np.testing.assert_array_equal(np.asarray(ours), expected)
    assert expected.shape == ((40, 24, 3) if orientation >= 5 else (24, 40, 3))
    with Image.open(path) as image:
        assert upright_size(image) == ours.size


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pixels_are_turned_as_images_are(tmp_path, orientation):
    path = _turned(tmp_path / "a.png", orientation)
    stored = np.asarray(load_image(path))
    np.testing.assert_array_equal(turned_pixels(stored, orientation), _upright(path))


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_the_fast_pipeline_sees_the_same_pixels(tmp_path, suffix, upright):
    fast = pytest.importorskip("erssl.data.views.fast_images")
    samples = [(str(_turned(tmp_path / f"{o}.{suffix}", o)), o) for o in ORIENTATIONS]
    images = ImageFiles(samples, upright)
    for index in range(len(images)):
        expected = np.asarray(images[index][0])
        known, _ = fast.known_size(images, index)
        assert (known.height, known.width) == expected.shape[:2]
        np.testing.assert_array_equal(known.decode(1), expected)


def test_the_device_pipeline_holds_images_upright(tmp_path):
    from erssl.data.views.held import HeldImages

    path = _turned(tmp_path / "a.png", 6)
    held = HeldImages(ImageFiles([(str(path), 0)], upright=True), seed=0)
    np.testing.assert_array_equal(held.pixels[0].numpy(), _upright(path))


def test_own_folders_are_upright_and_published_ones_as_stored(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        _turned(tmp_path / split / "cat" / "a.png", 6)
    own = default_options(
        "imagefolder", train_dir=str(tmp_path / "train"), val_dir=str(tmp_path / "val")
    )
    published = default_options("imagenet", root=str(tmp_path))
    for options, size in ((own, (24, 40)), (published, (40, 24))):
        datasets = load_datasets(options)
        assert [datasets.train[0][0].size, datasets.val[0][0].size] == [size, size]
    train = load_datasets(own).train
    stored = load_datasets(dataclasses.replace(own, exif=False)).train
    assert data_digest(train) != data_digest(stored)  # their features are others
    with pytest.raises(ConfigError, match=r"data\.exif=True is not read by data\.name=digits"):
        default_options("digits", exif=True)


def test_runs_that_knew_no_orientation_stay_without(tmp_path):
    overrides = ["data=imagefolder", "data.train_dir=photos"]
    _, config = read_settings(overrides)
    assert config["data"]["exif"] is True
    file = tmp_path / "config.yaml"
    for exif in (True, False):
        if not exif:
            del config["data"]["exif"]
        file.write_text(yaml.safe_dump(plain(config)))
        assert run_settings(tmp_path, []).data.exif is exif


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_uncompressed_tiffs_are_turned_and_not_scrambled(tmp_path, dtype, orientation):
    """Pillow 13 maps them into memory with the size of the turned image."""
    levels = (np.arange(20 * 30).reshape(20, 30) % 251).astype(dtype)
    path = tmp_path / "a.tif"
    Image.fromarray(levels).save(path, tiffinfo={0x0112: orientation})
    turned = turned_pixels(levels[..., None], orientation)[..., 0]
    loaded = np.asarray(load_image(path, upright=True))[..., 0]
    assert loaded.shape == turned.shape
    order = loaded.astype(float).ravel(), turned.astype(float).ravel()
    assert np.corrcoef(*order)[0, 1] > 0.999
