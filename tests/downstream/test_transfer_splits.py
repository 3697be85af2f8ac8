"""Splits: drawn as said, kept with the run, and checked when it is resumed."""

import hashlib
import json

import numpy as np
import pytest

from erssl.downstream.transfer.datasets import load_transfer
from erssl.downstream.transfer.splits import (
    draw_per_class,
    draw_validation,
    halve_classes,
    keep_splits,
    read_splits,
    write_splits,
)
from erssl.errors import DataError

from .conftest import need

LABELS = np.repeat([0, 2, 3], [40, 31, 9])


@pytest.mark.parametrize("seed", [0, 7])
def test_draws_are_whole_and_disjoint(seed):
    for train, rest in (
        draw_validation(80, seed),
        draw_per_class(LABELS, 30, seed)[:2],
        halve_classes(LABELS, seed),
    ):
        assert sorted([*train, *rest]) == list(range(80))
        assert (np.diff(train) > 0).all() and (np.diff(rest) > 0).all()
    train, _, small = draw_per_class(LABELS, 30, seed)
    assert np.bincount(LABELS[train]).tolist() == [30, 0, 30, 4]
    assert small == (3,)
    assert np.bincount(LABELS[halve_classes(LABELS, seed)[0]]).tolist() == [20, 0, 16, 5]


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: draw_validation(80, seed),
        lambda seed: draw_per_class(LABELS, 30, seed),
        lambda seed: halve_classes(LABELS, seed),
    ],
)
def test_draws_follow_the_seed(draw):
    assert draw(0)[0].tolist() == draw(0)[0].tolist() != draw(1)[0].tolist()


def test_too_few_to_draw_from():
    for count in (0, 4):
        with pytest.raises(DataError, match=f"{count} images cannot be split"):
            draw_validation(count)
    assert [len(part) for part in draw_validation(5)] == [4, 1]


def test_files_hold_every_image_and_its_checksum(aircraft, tmp_path):
    data = load_transfer("aircraft", aircraft, partial_ok=True)
    sums = write_splits(tmp_path / "splits", data)
    for split in ("train", "val", "test"):
        content = (tmp_path / "splits" / f"aircraft-{split}.txt").read_bytes()
        assert sums[split] == hashlib.sha256(content).hexdigest()
        lines = [line.split("\t") for line in content.decode().splitlines()]
        samples = getattr(data, split).samples
        assert [str(aircraft / path) for path, _ in lines] == [path for path, _ in samples]
        assert [int(label) for _, label in lines] == [label for _, label in samples]
    about = json.loads((tmp_path / "splits" / "aircraft-splits.json").read_text())
    assert about["sha256"] == sums
    assert about["counts"] == {"train": 12, "val": 8, "test": 8}
    assert about["published_counts"] == {"train": 3334, "val": 3333, "test": 3333}
    assert (about["seed"], about["complete"]) == (0, False)
    assert any("3,334" in note for note in about["notes"])
    assert keep_splits(tmp_path / "splits", data) == sums
    assert len(read_splits(tmp_path / "splits", "aircraft")["val"]) == 8


def test_a_moved_data_set_has_the_same_splits(aircraft, tmp_path):
    sums = keep_splits(tmp_path / "splits", load_transfer("aircraft", aircraft, partial_ok=True))
    (tmp_path / "fgvc-aircraft-2013b").rename(tmp_path / "away")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "away").rename(tmp_path / "elsewhere" / "fgvc-aircraft-2013b")
    moved = load_transfer("aircraft", tmp_path / "elsewhere", partial_ok=True)
    assert keep_splits(tmp_path / "splits", moved) == sums


def test_images_in_memory_and_several_classes(voc, tmp_path):
    several = load_transfer("voc2007", voc, partial_ok=True)
    write_splits(tmp_path / "s", several)
    line = read_splits(tmp_path / "s", "voc2007")["train"][0]
    marks = np.flatnonzero(several.train.samples[0][1])
    assert line.split("\t")[1] == ",".join(map(str, marks))
    root = need("cifar100_exact_part")
    data = load_transfer("cifar100", root, partial_ok=True)
    keep_splits(tmp_path / "s", data)
    lines = [line.split("\t") for line in read_splits(tmp_path / "s", "cifar100")["val"]]
    assert [int(number) for number, _ in lines] == data.val_indices.tolist()
    assert [int(label) for _, label in lines] == data.val.targets.tolist()
    other = load_transfer("cifar100", root, seed=1, partial_ok=True)
    with pytest.raises(DataError, match=r"train split of cifar100.*data_root and seed"):
        keep_splits(tmp_path / "s", other)


def test_changed_images_and_damaged_files(aircraft, tmp_path):
    splits = tmp_path / "splits"
    data = load_transfer("aircraft", aircraft, partial_ok=True)
    write_splits(splits, data)
    listed = aircraft / "fgvc-aircraft-2013b" / "data" / "images_variant_val.txt"
    lines = listed.read_text().splitlines(keepends=True)
    listed.write_text("".join(lines[1:]))
    with pytest.raises(DataError, match=r"val split of aircraft has 7 images where.*with 8"):
        keep_splits(splits, load_transfer("aircraft", aircraft, partial_ok=True))
    listed.write_text("".join(lines[::-1]))
    with pytest.raises(DataError, match="in another order"):
        keep_splits(splits, load_transfer("aircraft", aircraft, partial_ok=True))
    listed.write_text("".join(lines))
    file = splits / "aircraft-test.txt"
    file.write_text(file.read_text().replace("\t3", "\t2"))
    with pytest.raises(DataError, match=r"test split of aircraft.*SHA-256 differs"):
        keep_splits(splits, data)
    file.unlink()
    with pytest.raises(DataError, match=r"cannot be read \(aircraft-test.txt: No such file"):
        keep_splits(splits, data)
    for text in ("{", "{}", "[]"):
        (splits / "aircraft-splits.json").write_text(text)
        with pytest.raises(DataError, match="cannot be read"):
            read_splits(splits, "aircraft")
