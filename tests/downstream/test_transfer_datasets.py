"""The eleven data sets: real parts and stand-ins against torchvision, and every bad folder."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy.io import loadmat, savemat
from torch import nn
from torchvision import datasets as tv
from torchvision.datasets.folder import default_loader

from erssl.data.datasets import ImagesInMemory
from erssl.downstream.transfer.datasets import TRANSFER_DATASETS, load_transfer, targets_of
from erssl.downstream.transfer.readers import VOC_CLASSES
from erssl.downstream.transfer.splits import draw_validation
from erssl.downstream.transfer.transforms import TransferPreprocessing, build_linear_transform
from erssl.errors import ConfigError, DataError
from erssl.evaluation import cached_features
from erssl.evaluation.fingerprints import data_digest

from .conftest import image, need

PARTS = {  # folder of the shared data, and train / val / test there
    "caltech101": ("caltech101", (324, 80, 404)),
    "cars": ("stanford_cars", (144, 36, 180)),
    "cifar10": ("cifar10", (4386, 1096, 1017)),
    "cifar100": ("cifar100_exact_part", (894, 223, 916)),
    "dtd": ("dtd", (50, 50, 50)),
    "food": ("food-101", (80, 20, 60)),
    "pets": ("oxford-iiit-pet", (29, 7, 36)),
    "sun397": ("SUN397", (52, 12, 56)),
}


def part_of(name, **changes):
    return load_transfer(name, need(PARTS[name][0]), partial_ok=True, **changes)


def sentence(name, root, **changes):
    with pytest.raises(DataError) as caught:
        load_transfer(name, root, **changes)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def keys(images):
    samples = getattr(images, "samples", None)
    if samples is not None:
        return [path for path, _ in samples]
    return [p.tobytes() for p in images.pixels]


def test_the_table_is_the_protocols():
    """Protocol of Ericsson et al. 2021; totals as the data sets' authors published them."""
    expected = {
        "aircraft": (100, "mean_per_class", 6667, 3333),
        "caltech101": (101, "mean_per_class", 30 * 101, 8677 - 30 * 101),
        "cars": (196, "top1", 8144, 8041),
        "cifar10": (10, "top1", 50000, 10000),
        "cifar100": (100, "top1", 50000, 10000),
        "dtd": (47, "top1", 2 * 47 * 40, 47 * 40),
        "flowers": (102, "mean_per_class", 2 * 1020, 6149),
        "food": (101, "top1", 101 * 750, 101 * 250),
        "pets": (37, "mean_per_class", 3680, 3669),
        "sun397": (397, "top1", 397 * 50, 397 * 50),
        "voc2007": (20, "map11", 5011, 4952),
    }
    actual = {
        row.name: (row.classes, row.metric, row.counts[0] + row.counts[1], row.counts[2])
        for row in TRANSFER_DATASETS.values()
    }
    assert actual == expected
    for row in TRANSFER_DATASETS.values():
        assert hasattr(tv, row.torchvision)
        if "drawn" in row.split:
            train, val = draw_validation(row.counts[0] + row.counts[1])
            assert (len(train), len(val)) == row.counts[:2]


@pytest.mark.parametrize("name", PARTS)
def test_real_parts(name):
    data, row = part_of(name), TRANSFER_DATASETS[name]
    assert tuple(data.counts.values()) == PARTS[name][1]
    assert (data.num_classes, data.metric) == (row.classes, row.metric)
    assert len(data.class_names) == row.classes
    assert not data.complete
    assert any(
        "images for training / validation / test where the whole has" in n for n in data.notes
    )
    for split in (data.train, data.val, data.train_val, data.test):
        shown, label = split[len(split) - 1]
        assert (shown.mode, type(label)) == ("RGB", int)
        assert 0 <= label < row.classes
    train, val, every, test = map(keys, (data.train, data.val, data.train_val, data.test))
    assert [every[i] for i in data.train_indices] == train
    assert [every[i] for i in data.val_indices] == val
    assert sorted([*data.train_indices, *data.val_indices]) == list(range(len(every)))
    if "cifar" not in name:  # whose parts may hold equal images
        assert not set(every) & set(test)
        assert len(set(every)) == len(every)
    np.testing.assert_array_equal(
        targets_of(data.train), targets_of(data.train_val)[data.train_indices]
    )
    message = sentence(name, data.root)
    assert "partial_ok=true" in message


@pytest.mark.parametrize("name", PARTS)
def test_splits_follow_the_seed(name):
    one, again = part_of(name), part_of(name)
    assert data_digest(one.train) == data_digest(again.train)
    assert data_digest(one.test) == data_digest(again.test)
    other = part_of(name, seed=1)
    assert (data_digest(other.train) == data_digest(one.train)) == (name == "dtd")
    drawn_tests = ("caltech101", "sun397")  # here, without the official split
    assert (data_digest(other.test) == data_digest(one.test)) == (name not in drawn_tests)


@pytest.mark.parametrize("name", ["food", "pets", "cars", "dtd"])
def test_images_and_labels_are_torchvisions(name):
    data = part_of(name)
    make = getattr(tv, TRANSFER_DATASETS[name].torchvision)
    splits = {"pets": ["trainval"], "dtd": ["train", "val"]}.get(name, ["train"])
    for parts, actual in ((splits, data.train_val), (["test"], data.test)):
        reference = [pair for s in parts for pair in make(str(data.root), split=s)]
        assert len(reference) == len(actual)
        for (shown, label), (expected, number) in zip(actual, reference, strict=True):
            assert label == number
            assert shown.tobytes() == expected.tobytes()


def test_the_draw_is_that_of_ericssons_code():
    for count in (5, 36, 8144):
        indices = list(range(count))
        np.random.seed(0)
        np.random.shuffle(indices)
        cut = int(np.floor(0.2 * count))
        train, val = draw_validation(count)
        assert (sorted(indices[cut:]), sorted(indices[:cut])) == (train.tolist(), val.tolist())


def test_classes_that_a_part_lacks_are_named_and_labels_stay():
    data = part_of("pets")
    assert set(targets_of(data.train_val)) == {0, 1, 5}
    assert data.class_names[:2] == ("Abyssinian", "American Bulldog")
    assert (data.class_names[5], data.class_names[2]) == ("Bengal", "class 2")
    assert any("no training image of 34 of its 37 classes (class 2," in n for n in data.notes)
    assert "34 of its 37 classes" in sentence("pets", data.root)


def test_caltech_leaves_the_background_out_and_draws_no_image_twice():
    data = part_of("caltech101")
    paths = [*keys(data.train_val), *keys(data.test)]
    assert len(set(paths)) == len(paths) == 101 * 8
    assert not any("BACKGROUND" in path for path in paths)
    assert np.bincount(targets_of(data.train_val)).tolist() == [4] * 101
    assert any("without BACKGROUND_Google" in note for note in data.notes)


def test_caltech_takes_thirty_of_larger_classes(tmp_path):
    folder = tmp_path / "caltech101" / "101_ObjectCategories"
    (folder / "BACKGROUND_Google").mkdir(parents=True)
    for label, count in (("ant", 31), ("bass", 45), ("crab", 30)):
        (folder / label).mkdir()
        for number in range(1, count + 1):
            (folder / label / f"image_{number:04d}.jpg").touch()
    data = load_transfer("caltech101", tmp_path, partial_ok=True)
    assert np.bincount(targets_of(data.train_val)).tolist() == [30, 30, 15]
    assert np.bincount(targets_of(data.test)).tolist() == [1, 15, 15]
    assert any("1 classes of 30 images or fewer" in note for note in data.notes)


def test_sun_by_its_official_partition(copy_of):
    root = copy_of("SUN397")
    folder = root / "SUN397"
    files = sorted(f"/{p.relative_to(folder)}" for p in folder.rglob("sun_*.jpg"))
    (folder / "Training_01.txt").write_text("\r\n".join(files[::2]))
    (folder / "Testing_01.txt").write_text("\n".join(files[1::2]) + "\n")
    for seed in (0, 1):
        data = load_transfer("sun397", root, seed=seed, partial_ok=True)
        assert keys(data.train_val) == [str(folder) + f for f in files[::2]]
        assert keys(data.test) == [str(folder) + f for f in files[1::2]]
        assert not any("official split" in note for note in data.notes)
    reference = tv.SUN397(str(root))
    labels = dict(zip(map(str, reference._image_files), reference._labels, strict=True))
    assert all(labels[path] == label for path, label in data.train_val.samples)
    assert "where the whole has 15,880" in sentence("sun397", root)
    (folder / "Training_01.txt").write_text("/a/abbey/sun_none.jpg\n")
    assert "KeyError: 'abbey'" in sentence("sun397", root, partial_ok=True)


def test_sun_without_its_partition_says_which_files():
    message = sentence("sun397", need("SUN397"))
    for word in ("Training_01.txt", "Testing_01.txt", "Partitions.zip", "partial_ok=true"):
        assert word in message


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_exact_cifar_parts_are_the_tiles(name):
    data = part_of(name)
    key, count = {"cifar10": ("y", 5482), "cifar100": ("fine", 1117)}[name]
    labels = np.load(data.root / f"{name}_exact_labels.npz")[f"train_{key}"]
    np.testing.assert_array_equal(targets_of(data.train_val), labels)
    mosaic = Image.open(data.root / f"{name}_exact_train.png")
    for index in (0, 63, 64, count - 1):
        row, column = divmod(index, 64)
        box = (32 * column, 32 * row, 32 * column + 32, 32 * row + 32)
        assert data.train_val[index][0].tobytes() == mosaic.crop(box).tobytes()


def test_a_mosaic_of_other_labels(copy_of):
    root = copy_of("cifar100_exact_part")
    stem = root / "cifar100_exact_part" / "cifar100_exact"
    shutil.copyfile(f"{stem}_test.png", root / "short.png")
    (root / "cifar100_exact_part" / "cifar100_exact_train.png").unlink()
    shutil.move(root / "short.png", f"{stem}_train.png")
    assert "does not hold 1117 tiles" in sentence("cifar100", root, partial_ok=True)


def test_voc_marks(voc):
    data = load_transfer("voc2007", voc, partial_ok=True)
    assert (tuple(data.counts.values()), data.metric) == ((55, 42, 87), "map11")
    assert data.class_names == VOC_CLASSES
    main = voc / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    for split, images in (("train", data.train), ("val", data.val), ("test", data.test)):
        listed = [  # the labels of the development kit, where 0 stands for difficult objects only
            [int(line.split()[1]) == 1 for line in (main / f"{k}_{split}.txt").open()]
            for k in VOC_CLASSES
        ]
        np.testing.assert_array_equal(targets_of(images), np.transpose(listed))
    shown, marks = data.train[0]
    assert (shown.mode, marks.dtype, marks.shape) == ("RGB", np.float32, (20,))
    assert sentence("voc2007", voc).startswith("voc2007 in")


def test_difficult_objects_count_as_negative(voc):
    before = load_transfer("voc2007", voc, partial_ok=True)
    folder = voc / "VOCdevkit" / "VOC2007"
    stem = (folder / "ImageSets" / "Main" / "train.txt").read_text().split()[0]
    file = folder / "Annotations" / f"{stem}.xml"
    tree = ET.parse(file)
    for entry in tree.getroot().findall("object"):
        entry.find("difficult").text = "1"
    first = ET.SubElement(tree.getroot(), "object")
    ET.SubElement(first, "name").text = "sheep"
    ET.SubElement(first, "difficult").text = "0"
    tree.write(file)
    after = load_transfer("voc2007", voc, partial_ok=True)
    assert targets_of(before.train)[0].sum() >= 1
    assert np.flatnonzero(targets_of(after.train)[0]).tolist() == [VOC_CLASSES.index("sheep")]
    assert data_digest(before.train) != data_digest(after.train)
    first.find("name").text = "unicorn"
    tree.write(file)
    message = sentence("voc2007", voc, partial_ok=True)
    assert "unicorn" in message and file.name in message
    file.write_text("<annotation>")
    assert file.name in sentence("voc2007", voc, partial_ok=True)


def test_features_of_multi_label_images_are_cached(voc, tmp_path):
    data = load_transfer("voc2007", voc, partial_ok=True)
    preprocessing = TransferPreprocessing(image_size=8)
    options = {"cache_dir": tmp_path / "cache", "preprocessing": preprocessing.as_dict()}
    seen = []
    backbone = nn.Flatten()
    backbone.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    for _ in range(2):
        actual = cached_features(
            backbone, data.val, build_linear_transform(preprocessing), shard_size=16, **options
        )
        assert actual.labels.dtype == torch.int64
        np.testing.assert_array_equal(actual.labels, targets_of(data.val))
    assert sum(seen) == len(data.val)


def test_aircraft(aircraft):
    data = load_transfer("aircraft", aircraft, partial_ok=True)
    assert data.counts == {"train": 12, "val": 8, "test": 8}
    assert data.class_names[1] == "A340 500" and data.class_names[4] == "class 4"
    for split in ("train", "val", "test"):
        reference = tv.FGVCAircraft(str(aircraft), split=split)
        for (shown, label), (expected, number) in zip(getattr(data, split), reference, strict=True):
            assert (shown.tobytes(), label) == (expected.tobytes(), number)
    assert "3,334 / 3,333 / 3,333" in sentence("aircraft", aircraft)


def test_flowers(flowers):
    assert "not the official ones" in sentence("flowers", flowers)
    data = load_transfer("flowers", flowers, partial_ok=True)
    assert data.counts == {"train": 6, "val": 6, "test": 9}
    ids = loadmat(flowers / "flowers-102" / "setid.mat")["tstid"][0]
    assert [int(path[-9:-4]) for path in keys(data.test)] == ids.tolist()
    assert targets_of(data.test).tolist() == [0] * 3 + [1] * 3 + [101] * 3
    assert data.class_names[101] == "blackberry lily"
    assert any("not the official" in note for note in data.notes)


@pytest.mark.parametrize("name", TRANSFER_DATASETS)
def test_a_folder_that_is_missing_or_of_another_layout(name, tmp_path):
    for root in (tmp_path / "nowhere", tmp_path):
        message = sentence(name, root)
        assert str(root) in message
        assert TRANSFER_DATASETS[name].needs[0].split("/")[0] in message
        gone = name in ("cars", "sun397")
        assert ("download=true" in message) != gone
        assert ("the host that torchvision fetched them from is gone" in message) == gone
    assert not list(tmp_path.iterdir())  # nothing was made


@pytest.mark.parametrize("name", ["cars", "sun397"])
def test_hosts_that_are_gone(name, tmp_path):
    message = sentence(name, tmp_path, download=True)
    assert "cannot be downloaded any more" in message
    for file in TRANSFER_DATASETS[name].needs:
        assert file in message


def test_sun_names_its_lists_and_images_where_it_is_missing(tmp_path):
    for download in (False, True):
        message = sentence("sun397", tmp_path, download=download)
        for part in ("ClassName.txt", "Training_01.txt", "Testing_01.txt", "a/abbey"):
            assert f"SUN397/{part}" in message


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_damaged_cifar(name, tmp_path, monkeypatch):
    row, fetched = TRANSFER_DATASETS[name], []
    folder = tmp_path / row.needs[0].split("/")[0]
    folder.mkdir()
    assert f"is not in data_root={tmp_path}" in sentence(name, tmp_path)
    make = getattr(tv, row.torchvision)
    monkeypatch.setattr(make, "download", lambda self: fetched.append(self.root))
    sentence(name, tmp_path, download=True)
    assert set(fetched) == {str(tmp_path)}  # an empty folder is not taken for the data set
    for file in row.needs:
        (tmp_path / file).write_bytes(b"x")
    message = sentence(name, tmp_path)
    assert f"{folder} are not the official ones" in message and "download=True" not in message


def test_a_download_that_fails_says_why(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("no route to host")

    monkeypatch.setattr(tv.DTD, "_download", fail)
    message = sentence("dtd", tmp_path, download=True)
    assert "no route to host" in message and str(tmp_path) in message


def test_a_download_is_loaded_and_not_repeated(copy_of, tmp_path, monkeypatch):
    source, calls = copy_of("dtd"), []

    def fetch(self):
        calls.append(self.root)
        shutil.move(source / "dtd", self._base_folder)

    monkeypatch.setattr(tv.DTD, "_download", fetch)
    root = tmp_path / "data"
    root.mkdir()
    for _ in range(2):
        assert load_transfer("dtd", root, download=True, partial_ok=True).root == root
    assert calls == [str(root)]


def test_an_incomplete_folder_names_what_it_lacks(copy_of):
    root = copy_of("food-101")
    (root / "food-101" / "meta" / "test.json").unlink()
    message = sentence("food", root, partial_ok=True)
    assert "is not complete" in message and "lacks food-101/meta/test.json" in message


def test_listed_images_that_are_not_there(copy_of):
    root = copy_of("oxford-iiit-pet")
    data = load_transfer("pets", root, partial_ok=True)
    lost = keys(data.test)[3]
    (root / "oxford-iiit-pet" / "images" / lost.rsplit("/", 1)[1]).unlink()
    message = sentence("pets", root, partial_ok=True)
    assert "36 images of which 1 are not there" in message and lost.rsplit("/", 1)[1] in message


def test_a_corrupt_image_is_named_when_it_is_read(aircraft):
    data = load_transfer("aircraft", aircraft, partial_ok=True)
    path = keys(data.train)[5]
    with open(path, "r+b") as file:
        file.truncate(200)
    with pytest.raises(DataError, match=re.escape(path)):
        data.train[5]


def test_damaged_lists(copy_of, aircraft):
    root = copy_of("food-101")
    (root / "food-101" / "meta" / "train.json").write_text("{")
    assert "JSONDecodeError" in sentence("food", root, partial_ok=True)
    labels = aircraft / "fgvc-aircraft-2013b" / "data" / "images_variant_val.txt"
    labels.write_text(labels.read_text().replace("DC-3", "Zeppelin"))
    assert "KeyError: 'Zeppelin'" in sentence("aircraft", aircraft, partial_ok=True)


@pytest.mark.parametrize(("label", "shown"), [("38", "from 0 to 37"), ("0", "from -1 to")])
def test_labels_out_of_range(copy_of, label, shown):
    root = copy_of("oxford-iiit-pet")
    file = root / "oxford-iiit-pet" / "annotations" / "trainval.txt"
    first, *rest = file.read_text().splitlines()
    words = first.split()
    file.write_text("\n".join([" ".join([words[0], label, *words[2:]]), *rest]) + "\n")
    message = sentence("pets", root, partial_ok=True)
    assert shown in message and "37 classes have 0 to 36" in message


def test_labels_of_cars_out_of_range(copy_of):
    root = copy_of("stanford_cars")
    file = root / "stanford_cars" / "cars_test_annos_withlabels.mat"
    table = loadmat(file)
    # A new array: scipy's own of one byte lies in an object that all of Python shares.
    table["annotations"][0, 0]["class"] = np.array([[197]], dtype=np.uint8)
    savemat(file, {"annotations": table["annotations"]})
    assert "to 196, counted from 0" in sentence("cars", root, partial_ok=True)


def test_splits_of_different_classes_would_be_numbered_differently(copy_of):
    root = copy_of("food-101")
    file = root / "food-101" / "meta" / "test.json"
    names = json.loads(file.read_text())
    names.pop("apple_pie")
    file.write_text(json.dumps(names))
    message = sentence("food", root, partial_ok=True)
    assert "name different classes (apple_pie)" in message


def test_empty_lists_and_too_few_images(aircraft, copy_of):
    (aircraft / "fgvc-aircraft-2013b" / "data" / "images_variant_test.txt").write_text("")
    assert "empty list of images" in sentence("aircraft", aircraft, partial_ok=True)
    root = copy_of("oxford-iiit-pet")
    file = root / "oxford-iiit-pet" / "annotations" / "trainval.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    assert "4 images cannot be split" in sentence("pets", root, partial_ok=True)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_list_of_one_split(aircraft, split):
    (aircraft / "fgvc-aircraft-2013b" / "data" / f"images_variant_{split}.txt").write_text("")
    message = sentence("aircraft", aircraft, partial_ok=True)
    assert f"aircraft in {aircraft} has an empty list of images for {split}" in message


def test_training_images_of_one_class(copy_of):
    root = copy_of("oxford-iiit-pet")
    file = root / "oxford-iiit-pet" / "annotations" / "trainval.txt"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if line.split()[1] == "1"))
    message = sentence("pets", root, partial_ok=True)
    assert f"training images of pets in {root} have the same labels" in message


def test_a_root_of_roots(aircraft, tmp_path_factory):
    top = tmp_path_factory.mktemp("top")
    shutil.copytree(aircraft, top / "one")
    assert load_transfer("aircraft", top, partial_ok=True).root == top / "one"
    shutil.copytree(aircraft, top / "two")
    message = sentence("aircraft", top, partial_ok=True)
    assert "is in 2 folders" in message and "(one, two)" in message
    shutil.copytree(aircraft, top, dirs_exist_ok=True)
    assert load_transfer("aircraft", top, partial_ok=True).root == top


def test_bad_values(tmp_path):
    for changes, word in [
        ({"name": "mnist"}, "dataset=mnist"),
        ({"download": "no"}, "download=no"),
        ({"partial_ok": 1}, "partial_ok=1"),
        ({"seed": -1}, "seed=-1"),
    ]:
        with pytest.raises(ConfigError, match=word):
            load_transfer(**{"name": "dtd", "root": tmp_path, **changes})


@pytest.mark.parametrize("name", TRANSFER_DATASETS)
def test_images_are_left_as_they_are_stored(name, request):
    """Published protocols read them by torchvision, whose loader knows no EXIF orientation."""
    if name in PARTS:
        need(PARTS[name][0])
        root = request.getfixturevalue("copy_of")(PARTS[name][0])
    else:
        root = request.getfixturevalue("voc" if name == "voc2007" else name)
    data = load_transfer(name, root, partial_ok=True)
    on_its_side = Image.Exif()
    on_its_side[0x0112] = 6
    for images in (data.train, data.val, data.train_val, data.test):
        if isinstance(images, ImagesInMemory):
            assert name.startswith("cifar")  # arrays, which have no orientation
            continue
        path = Path(images.samples[0][0])
        path.unlink()
        image(path)
        with Image.open(path) as plain:
            plain.save(path, exif=on_its_side.tobytes())
        shown = images[0][0]
        assert shown.size == (40, 30)
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(default_loader(str(path))))
        with Image.open(path) as file:
            assert ImageOps.exif_transpose(file).size == (30, 40)
