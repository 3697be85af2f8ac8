"""Parts of data sets: the images of their numbers, with all that is known of the whole."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from erssl.data import default_options, labels_of
from erssl.data.datasets import ImagesInMemory
from erssl.data.file_list import FileList
from erssl.data.folders import ImageFiles
from erssl.data.imbalance import long_tailed
from erssl.data.parts import part_of
from erssl.downstream.transfer.images import MultiLabelFiles, take
from erssl.evaluation.fingerprints import data_digest

from .data_images import noise
from .test_encoded import stored

SOME = np.array([3, 0, 4])


def same(part, whole, indices=SOME):
    """Whether images and class numbers are those of the whole."""
    assert len(part) == len(indices)
    for place, index in enumerate(indices.tolist()):
        (image, target), (expected, label) = part[place], whole[index]
        assert np.array_equal(np.asarray(image), np.asarray(expected))
        assert np.array_equal(target, label)


def files(tmp_path, **options):
    """A folder of two classes, of images that are to be turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(6):
        (tmp_path / "x" / f"c{i % 2}").mkdir(parents=True, exist_ok=True)
        noise(seed=i).save(tmp_path / "x" / f"c{i % 2}" / f"{i}.jpg", exif=exif)
    return default_options("imagefolder", train_dir=str(tmp_path / "x"), **options).load()


def bytes_of_images():
    buffers = [io.BytesIO() for _ in range(6)]
    for i, file in enumerate(buffers):
        noise(size=(20 + i, 30), seed=i).save(file, "PNG")
    return [file.getvalue() for file in buffers]


@pytest.mark.parametrize("part", [part_of, take])
def test_files_are_read_as_the_whole_and_share_its_names(tmp_path, part):
    whole = files(tmp_path, channels=1).train
    some = part(whole, SOME)
    same(some, whole)
    assert some[0][0].size == (30, 40) and some[0][0].mode == "L"
    assert isinstance(some.samples, FileList) and some.samples._names is whole.samples._names
    alike = ImageFiles([whole.samples[i] for i in SOME], whole.upright, whole.channels)
    assert data_digest(some) == data_digest(alike)


@pytest.mark.parametrize("kind", ["wds", "hf"])
def test_images_in_files_of_others_keep_their_fingerprint_and_sizes(tmp_path, kind):
    whole = stored(tmp_path, kind, bytes_of_images()).load().train
    some = part_of(whole, SOME)
    same(some, whole)
    assert type(some) is type(whole)
    assert [some.size_of(i) for i in range(3)] == [(23, 30), (20, 30), (24, 30)]
    assert [some.name_of(row) for row in some.rows] == [whole.name_of(row) for row in SOME]
    digests = [data_digest(part_of(whole, numbers)) for numbers in (SOME, SOME, SOME[::-1])]
    assert digests[0] == digests[1] and digests[0] not in (digests[2], data_digest(whole))


def test_arrays_stay_arrays_and_other_kinds_give_their_items():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    whole = ImagesInMemory(pixels, np.arange(6))
    for part in (part_of(whole, SOME), take(whole, SOME)):
        same(part, whole)
        assert np.array_equal(part.pixels, pixels[SOME])

    class Others(torch.utils.data.Dataset):
        targets = tuple(range(6))

        def __len__(self):
            return 6

        def __getitem__(self, index):
            return whole[index]

    some = part_of(Others(), SOME)
    same(some, whole)
    assert some.targets.tolist() == SOME.tolist()


def test_images_of_several_classes_keep_their_marks(tmp_path):
    names = [path for path, _ in files(tmp_path).train.samples]
    whole = MultiLabelFiles((path, (i % 2, 1)) for i, path in enumerate(names))
    same(take(whole, SOME), whole)


def test_long_tails_are_parts_of_the_same_kind(tmp_path):
    pytest.importorskip("datasets")
    for whole in (files(tmp_path), stored(tmp_path, "hf", bytes_of_images()).load()):
        some = long_tailed(whole, 3.0, seed=0)
        assert np.bincount(labels_of(some.train)).tolist() == [3, 1]
        assert type(some.train) is type(whole.train) and some.labelled_train is whole.train
