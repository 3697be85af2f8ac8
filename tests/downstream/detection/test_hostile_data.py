"""Annotations, lists, archives and weights that somebody else has made up."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from erssl.data import default_options, load_datasets
from erssl.downstream.detection.coco import CocoSource, read_coco
from erssl.downstream.detection.voc import read_voc
from erssl.downstream.detection.weights import backbone_weights, is_detector
from erssl.downstream.transfer.datasets import load_transfer
from erssl.errors import DataError

from ...hostile import Hostile


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("area", "x"),
        ("area", None),
        ("area", 10**400),
        ("image_id", [1]),
        ("iscrowd", {}),
        ("category_id", {}),
        ("category_id", []),
        ("bbox", [0, 0, 10**400, 1]),
    ],
)
def test_an_annotation_of_another_type_is_named(coco, change, key, value):
    change("train", lambda content: content["annotations"][0].update({key: value}))
    source = CocoSource(coco / "train2017", coco / "annotations" / "instances_train2017.json")
    with pytest.raises(DataError, match="annotations"):
        read_coco(source, "train")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"images": ' + b"9" * 9000 + b"}", b"\xff"])
def test_json_that_python_cannot_hold_is_broken(coco, content):
    file = coco / "annotations" / "instances_train2017.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match="broken JSON"):
        read_coco(CocoSource(coco / "train2017", file), "train")


def test_a_pipe_in_place_of_annotations_is_refused(coco):
    os.mkfifo(coco / "pipe")
    with pytest.raises(DataError, match="no file"):
        read_coco(CocoSource(coco / "train2017", coco / "pipe"), "train")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 200_000])
def test_a_voc_list_that_names_no_files_is_refused(tmp_path, content):
    place = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main"
    place.mkdir(parents=True)
    (place / "trainval.txt").write_bytes(content)
    with pytest.raises(DataError) as refused:
        read_voc(tmp_path, "train")
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize("member", ["../../escaped", "/escaped", "link"])
def test_an_archive_cannot_write_outside_of_the_data(tmp_path, member):
    root = tmp_path / "data"
    root.mkdir()
    name = str(tmp_path / "escaped") if member == "/escaped" else member
    with tarfile.open(root / "fgvc-aircraft-2013b.tar.gz", "w:gz") as archive:
        if member == "link":  # a folder elsewhere, and a file in it
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
            archive.addfile(link)
            name = "link/escaped"
        info = tarfile.TarInfo(name)
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="could not be fetched"):
        load_transfer("aircraft", root, download=True)
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path.parent / "escaped").exists()


@pytest.mark.parametrize(
    ("name", "folder", "files"),
    [
        ("cifar10", "cifar-10-batches-py", ["test_batch", "batches.meta"]),
        ("cifar100", "cifar-100-python", ["train", "test", "meta"]),
    ],
)
def test_a_pickle_in_place_of_cifar_is_never_run(tmp_path, name, folder, files):
    files = [*files, *(f"data_batch_{number}" for number in range(1, 6))]
    (tmp_path / folder).mkdir()
    for file in files:
        (tmp_path / folder / file).write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(DataError):
        load_transfer(name, tmp_path, partial_ok=True)
    with pytest.raises(DataError):
        load_datasets(default_options(name, root=str(tmp_path)))
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_the_labels_of_a_part_is_never_run(tmp_path):
    hostile = np.array([Hostile(tmp_path / "ran")] * 10, dtype=object)
    np.savez(tmp_path / "cifar10_exact_labels.npz", train_y=hostile, test_y=hostile)
    for split in ("train", "test"):
        (tmp_path / f"cifar10_exact_{split}.png").write_bytes(b"x")
    with pytest.raises(DataError):
        load_transfer("cifar10", tmp_path, partial_ok=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["whole", "weight", "key"])
def test_a_detector_of_the_model_zoo_is_never_run(tmp_path, place):
    hostile = Hostile(tmp_path / "ran")
    arrays = {"stem.conv1.weight": np.zeros((2, 2), np.float32)}
    content = {
        "whole": hostile,
        "weight": {"model": arrays | {"stem.conv1.norm.weight": hostile}},
        "key": {"model": arrays, "__author__": hostile},
    }[place]
    file = tmp_path / "model_final.pkl"
    file.write_bytes(pickle.dumps(content))
    for read in (backbone_weights, lambda path: is_detector(str(path))):
        with pytest.raises(DataError, match=r"would call (posix|nt)\.system"):
            read(file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_arrays_of_the_model_zoo_are_read(tmp_path, protocol):
    arrays = {"stem.conv1.weight": np.arange(4, dtype=np.float32).reshape(2, 2)}
    file = tmp_path / "R-50.pkl"
    file.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}, protocol))
    assert backbone_weights(file)["stem.conv1.weight"].tolist() == [[0.0, 1.0], [2.0, 3.0]]
