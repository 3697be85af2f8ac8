"""Validation images that are held out of the training folder."""

import os
import shutil

import pytest
from omegaconf import OmegaConf
from PIL import Image

from erssl.data import default_options, load_datasets
from erssl.errors import ConfigError, DataError
from erssl.settings.pretrain import read_settings, run_settings


def _names(images, folder):
    return [os.path.relpath(path, folder) for path, _ in images.samples]


def _options(folder, fraction=0.25, **changes):
    return default_options(
        "imagefolder", train_dir=str(folder), val_fraction=fraction, num_workers=0, **changes
    )


def test_every_class_gives_its_share_and_no_image_twice(make_folder):
    folder = make_folder(classes=("ant", "bee", "cat"), count=8)
    datasets = load_datasets(_options(folder))
    train, val = _names(datasets.train, folder), _names(datasets.val, folder)
    assert sorted(train + val) == sorted(
        f"{name}/{i}.png" for name in ("ant", "bee", "cat") for i in range(8)
    )
    assert [target for _, target in datasets.val.samples] == [0, 0, 1, 1, 2, 2]
    assert val != [f"{name}/{i}.png" for name in ("ant", "bee", "cat") for i in (0, 1)]


def test_the_same_images_are_held_out_wherever_the_folder_lies(make_folder, tmp_path):
    folder = make_folder(count=8)
    moved = tmp_path / "else" / "where"
    shutil.copytree(folder, moved)
    first, second = (load_datasets(_options(place)).val for place in (folder, moved))
    assert _names(first, folder) == _names(second, moved)


def test_a_class_of_one_image_keeps_it_for_training(make_folder):
    folder = make_folder(count=2)
    (folder / "cat" / "1.png").unlink()
    datasets = load_datasets(_options(folder, 0.9))
    assert [target for _, target in datasets.train.samples] == [0, 1]
    assert [target for _, target in datasets.val.samples] == [1]


def test_what_makes_no_split_is_refused(make_folder, tmp_path):
    with pytest.raises(DataError, match="needs a class with two images"):
        load_datasets(_options(make_folder(count=1)))
    with pytest.raises(ConfigError, match="are both set"):
        _options(tmp_path, val_dir=str(tmp_path))
    for fraction in (-0.5, 1.0, 2):
        with pytest.raises(ConfigError, match="no share of the images"):
            _options(tmp_path, fraction)
    with pytest.raises(ConfigError, match=r"is not read by data\.name=digits"):
        default_options("digits", val_fraction=0.1)


def test_a_run_keeps_its_split_unless_other_validation_images_are_named(tmp_path):
    overrides = ["data=imagefolder", "data.train_dir=photos", "data.val_fraction=0.25"]
    OmegaConf.save(read_settings(overrides)[1], tmp_path / "config.yaml")
    kept = run_settings(tmp_path, []).data
    assert (kept.val_dir, kept.val_fraction) == (None, 0.25)
    other = run_settings(tmp_path, ["data.val_dir=others"]).data
    assert (other.val_dir, other.val_fraction) == ("others", None)


def test_what_is_said_of_images_is_said_of_the_split_that_has_them(make_folder):
    """An animation counts in the split that it comes to, and in no other."""
    folder = make_folder(count=8)
    pages = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 255)]
    for name in os.listdir(folder / "cat"):
        (folder / "cat" / name).unlink()
    for i in range(8):
        pages[0].save(folder / "cat" / f"{i}.gif", save_all=True, append_images=pages[1:])
    datasets = load_datasets(_options(folder))
    assert len(datasets.val) == 4
    assert datasets.several_pages == {"train": 6, "val": 2}
