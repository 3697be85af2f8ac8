"""Data sets: against scikit-learn and torchvision, and every kind of bad folder."""

import hashlib
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets as tv

from erssl.data import DataOptions, ViewOptions, default_options, load_datasets
from erssl.errors import ConfigError, DataError

from .data_images import noise, truncate

SHARED = Path(os.environ.get("ERSSL_SHARED_DATA", Path(__file__).parents[2] / "../shared/data"))


def _folder(train: Path, val: Path | None = None, **changes: object) -> DataOptions:
    return default_options(
        "imagefolder", train_dir=str(train), val_dir=None if val is None else str(val), **changes
    )


def _sentence(options: DataOptions) -> str:
    with pytest.raises(DataError) as caught:
        load_datasets(options)
    message = str(caught.value)
    assert message.endswith(".")
    assert ". " not in message and "\n" not in message
    return message


def test_digits_are_scikit_learns_split_once() -> None:
    data, again = (load_datasets(default_options("digits")) for _ in range(2))
    assert (len(data.train), len(data.val)) == (1437, 360)
    assert (data.num_classes, data.class_names[3], data.labelled) == (10, "3", True)
    scans = load_digits()
    known = {
        scan.astype(np.uint8).tobytes() + bytes([t])
        for scan, t in zip(scans.images, scans.target, strict=True)
    }
    seen = []
    for split in (data.train, data.val):
        for image, target in split:
            assert (image.mode, image.size) == ("RGB", (8, 8))
            grey = np.asarray(image)[..., 0]
            levels = np.rint(grey * (16 / 255)).astype(np.uint8)
            assert np.abs(levels * (255 / 16) - grey).max() <= 0.5
            seen.append(levels.tobytes() + bytes([target]))
    assert len(seen) == 1797
    assert set(seen) == known
    counts = np.bincount(data.val.targets)
    assert np.abs(counts - np.bincount(scans.target) * 0.2).max() <= 1
    np.testing.assert_array_equal(data.train.pixels, again.train.pixels)


def test_default_statistics_of_digits_are_those_of_the_training_scans() -> None:
    options = default_options("digits")
    pixels = load_datasets(options).train.pixels / 255
    assert options.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-3)
    assert options.std == pytest.approx(pixels.std((0, 1, 2)), abs=1e-3)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_that_is_absent_names_the_two_keys(name: str, tmp_path: Path) -> None:
    for root in (None, str(tmp_path), str(tmp_path / "nowhere")):
        message = _sentence(default_options(name, root=root))
        assert "data.root" in message and "data.download=true" in message
        assert root is None or root in message


def test_cifar_that_cannot_be_fetched_says_why(tmp_path: Path, monkeypatch) -> None:
    def fail(self) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(tv.CIFAR10, "download", fail)
    message = _sentence(default_options("cifar10", root=str(tmp_path), download=True))
    assert "no route to host" in message


@pytest.mark.parametrize(("name", "key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
def test_cifar_files_are_read(tmp_path: Path, monkeypatch, name: str, key: str) -> None:
    """Files in CIFAR's own format, small, with torchvision told their checksums."""
    cls = tv.CIFAR10 if name == "cifar10" else tv.CIFAR100
    n_classes = 10 if name == "cifar10" else 100
    folder = tmp_path / cls.base_folder
    folder.mkdir()
    names_key = cls.meta["key"]

    def write(filename: str, content: object) -> list[str]:
        data = pickle.dumps(content)
        (folder / filename).write_bytes(data)
        return [filename, hashlib.md5(data).hexdigest()]

    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    labels = [3, 1, 4, 1, 5, 9]
    train = write("train_part", {"data": pixels[:4], key: labels[:4]})
    test = write("test_part", {"data": pixels[4:], key: labels[4:]})
    meta = write("names", {names_key: [f"class {i}" for i in range(n_classes)]})
    monkeypatch.setattr(cls, "train_list", [train])
    monkeypatch.setattr(cls, "test_list", [test])
    monkeypatch.setattr(cls, "meta", {"filename": meta[0], "key": names_key, "md5": meta[1]})
    data = load_datasets(default_options(name, root=str(tmp_path)))
    assert (len(data.train), len(data.val), data.num_classes) == (4, 2, n_classes)
    assert data.class_names[9] == "class 9"
    for i, (image, target) in enumerate([*data.train, *data.val]):
        assert target == labels[i]
        np.testing.assert_array_equal(
            np.asarray(image), pixels[i].reshape(3, 32, 32).transpose(1, 2, 0)
        )
    truncate(folder / "train_part")
    assert "not complete" in _sentence(default_options(name, root=str(tmp_path)))


def test_image_folder_equals_torchvisions(make_folder) -> None:
    train, val = make_folder("train"), make_folder("val", count=2)
    data = load_datasets(_folder(train, val))
    assert data.labelled and data.skipped == []
    for ours, theirs in [(data.train, tv.ImageFolder(train)), (data.val, tv.ImageFolder(val))]:
        assert ours.samples == theirs.samples
        assert data.class_names == tuple(theirs.classes)
        for (a, i), (b, j) in zip(ours, theirs, strict=True):
            assert i == j
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_no_validation_folder_gives_none(make_folder) -> None:
    assert load_datasets(_folder(make_folder())).val is None


def test_images_alone_are_unlabelled(tmp_path: Path) -> None:
    for i in range(3):
        noise(seed=i).save(tmp_path / f"{i}.png")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "notes.txt").touch()
    data = load_datasets(_folder(tmp_path, tmp_path))
    assert not data.labelled
    assert (data.num_classes, len(data.train), len(data.val)) == (1, 3, 3)
    assert {target for _, target in data.train} == {0}


def test_hidden_entries_are_no_classes_and_no_images(make_folder) -> None:
    train = make_folder()
    (train / ".ipynb_checkpoints").mkdir()
    (train / "cat" / "._0.png").write_bytes(b"other system's notes")
    data = load_datasets(_folder(train))
    assert data.class_names == ("cat", "dog")
    assert len(data.train) == 6


def test_loose_images_beside_classes_are_told(make_folder) -> None:
    train = make_folder()
    noise().save(train / "overview.png")
    with pytest.warns(
        UserWarning, match=r"so the 1 image beside them is left out \(overview.png\)"
    ):
        assert len(load_datasets(_folder(train)).train) == 6


def test_odd_but_readable_files_are_read(make_folder) -> None:
    train = make_folder(count=1)
    noise().convert("L").save(train / "cat" / "grey.jpg")
    noise().convert("CMYK").save(train / "cat" / "cmyk.jpg")
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(train / "cat" / "sixteen.png")
    noise().save(train / "cat" / "moving.gif", save_all=True, append_images=[noise(seed=1)])
    noise().save(train / "cat" / "moving.png", save_all=True, append_images=[noise(seed=1)])
    data = load_datasets(_folder(train))
    assert len(data.train) == 7
    assert {image.mode for image, _ in data.train} == {"RGB"}


def _damage(train: Path) -> list[str]:
    noise((64, 48)).save(train / "cat" / "truncated.jpg")
    truncate(train / "cat" / "truncated.jpg")
    (train / "cat" / "void.png").touch()
    (train / "dog" / "words.jpg").write_text("these are words")
    return ["truncated.jpg", "void.png", "words.jpg"]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_stop_the_run(make_folder, workers: int) -> None:
    train = make_folder()
    names = _damage(train)
    message = _sentence(_folder(train, num_workers=workers))
    assert "3 of the 9 images in data.train_dir" in message
    assert "data.on_error=skip" in message
    assert all(name in message for name in names)
    assert "empty file" in message and "not an image" in message


def test_unreadable_files_are_skipped_and_counted(make_folder) -> None:
    train, val = make_folder("train"), make_folder("val")
    names = _damage(train)
    (val / "dog" / "void.png").touch()
    data = load_datasets(_folder(train, val, on_error="skip"))
    assert (len(data.train), len(data.val)) == (6, 6)
    assert [Path(path).name for path, _ in data.skipped] == [*names, "void.png"]
    assert len([image for image, _ in data.train]) == 6


def test_many_unreadable_files_are_five_names_and_a_count(make_folder) -> None:
    train = make_folder()
    for i in range(8):
        (train / "cat" / f"void{i}.png").touch()
    message = _sentence(_folder(train))
    assert message.count("void") == 5
    assert "8 of the 14" in message and "and 3 more" in message


def test_nothing_readable_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    (tmp_path / "void.png").touch()
    assert "which leaves none" in _sentence(_folder(tmp_path, on_error="skip"))


def test_without_the_check_a_bad_file_is_named_when_read(make_folder) -> None:
    train = make_folder()
    _damage(train)
    data = load_datasets(_folder(train, verify=False))
    assert len(data.train) == 9
    with pytest.raises(DataError, match=r"truncated\.jpg cannot be read"):
        list(data.train)


def test_folders_that_are_not_there(tmp_path: Path, make_folder) -> None:
    train = make_folder()
    file = train / "cat" / "0.png"
    empty = tmp_path / "empty"
    (empty / "cat").mkdir(parents=True)
    assert "data.train_dir=/nowhere does not exist" in _sentence(_folder(Path("/nowhere")))
    assert "data.val_dir=/nowhere does not exist" in _sentence(_folder(train, Path("/nowhere")))
    assert "is a file, not a folder" in _sentence(_folder(file))
    assert "holds no images" in _sentence(_folder(empty))
    assert "data.train_dir" in _sentence(default_options("imagefolder"))
    (train / "eel").mkdir()
    assert "1 of 3 class folders without images (eel)" in _sentence(_folder(train))


def test_validation_classes_must_be_the_training_classes(make_folder, tmp_path: Path) -> None:
    train = make_folder("train", ("cat", "dog", "eel"))
    val = make_folder("val", ("cat", "dgo"))
    message = _sentence(_folder(train, val))
    assert "lacks 2 (dog, eel)" in message and "has 1 others (dgo)" in message
    noise().save(tmp_path / "loose.png")
    flat = val / "cat"
    assert f"data.val_dir={flat} has no class folders" in _sentence(_folder(train, flat))
    assert f"data.train_dir={flat} has no class folders" in _sentence(_folder(flat, train))


def test_imagenet_is_two_folders_under_root(make_folder, tmp_path: Path) -> None:
    make_folder("train")
    make_folder("val", count=1)
    options = default_options("imagenet", root=str(tmp_path))
    assert not options.verify
    data = load_datasets(options)
    assert (len(data.train), len(data.val), data.num_classes) == (6, 2, 2)
    assert "data.root" in _sentence(replace(options, root=None))
    assert "does not exist" in _sentence(replace(options, root=str(tmp_path / "train")))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("digits", {"image_size": 0}, ("data.image_size=0",)),
        ("digits", {"download": True}, ("data.download=True", "digits")),
        ("imagefolder", {"download": True}, ("data.download=True", "data.train_dir")),
        ("imagefolder", {"root": "x"}, ("data.root=x", "data.train_dir")),
        ("cifar10", {"train_dir": "x"}, ("data.train_dir=x", "data.root")),
        ("digits", {"num_workers": -1}, ("data.num_workers=-1",)),
        ("imagenet", {"on_error": "ignore"}, ("data.on_error=ignore", "raise", "skip")),
        ("digits", {"mean": (0.5,)}, ("data.mean", "red, green and blue")),
        ("digits", {"std": (0.5, 0.0, 0.5)}, ("data.std",)),
        ("digits", {"std": (1e-300, 1.0, 1.0)}, ("data.std", "outside of [1e-06, 4]")),
        ("digits", {"std": (math.nan, 1.0, 1.0)}, ("data.std", "not finite")),
        ("digits", {"std": (1.0, math.inf, 1.0)}, ("data.std", "not finite")),
        ("digits", {"std": (-0.2, 0.2, 0.2)}, ("data.std", "not positive")),
        ("digits", {"std": (58.4, 57.1, 57.4)}, ("data.std", "by 255")),
        ("digits", {"mean": (math.nan, 0.0, 0.0)}, ("data.mean", "not finite")),
        ("digits", {"mean": (123.7, 116.3, 103.5)}, ("data.mean", "by 255")),
        ("digits", {"mean": (-0.5, 0.5, 0.5)}, ("data.mean", "outside of [0, 1]")),
        (
            "imagefolder",
            {"channels": 4, "mean": (0.0,) * 4, "std": (1e-300,) * 4},
            ("data.std", "single precision"),
        ),
        ("imagefolder", {"on_error": "skip", "verify": False}, ("data.verify=true",)),
        ("digits", {"image_size": "large"}, ("data.image_size=large",)),
        ("digits", {"mean": "grey"}, ("data.mean=grey",)),
        ("digits", {"std": ["a", "b", "c"]}, ("data.std",)),
        ("imagefolder", {"verify": "no"}, ("data.verify=no", "true nor false")),
        ("cifar10", {"download": "yes"}, ("data.download=yes",)),
        ("mnist", {}, ("data.name=mnist", "digits", "imagenet")),
    ],
)
def test_wrong_options_are_one_sentence(name: str, changes, words) -> None:
    with pytest.raises(ConfigError) as caught:
        default_options(name, **changes)
    message = str(caught.value)
    assert all(word in message for word in words)
    assert message.endswith(".") and ". " not in message


def test_options_from_a_configuration_file_may_be_lists() -> None:
    views = ViewOptions("digits", global_scale=[0.4, 1])
    options = default_options("digits", mean=[0.1, 0.2, 0.3], views=views)
    assert options.mean == (0.1, 0.2, 0.3)
    assert options.views.global_scale == (0.4, 1.0)
    hash(options)


@pytest.mark.parametrize("part", ["caltech101/101_ObjectCategories", "coco_mini/val2017"])
def test_real_images(part: str) -> None:
    folder = SHARED / part
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set ERSSL_SHARED_DATA to a folder with {part}")
    data = load_datasets(_folder(folder, num_workers=2))
    assert len(data.train) >= 100
    assert data.labelled == part.startswith("caltech")
    for index in range(0, len(data.train), len(data.train) // 5):
        image, target = data.train[index]
        assert image.mode == "RGB" and min(image.size) > 50
        assert 0 <= target < data.num_classes
