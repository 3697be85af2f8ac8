"""Lists of files in little memory, and what is left out of folders."""

import os
import pickle
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from erssl.data.file_list import FileList, FileListBuilder, Paths, chosen, targets_of
from erssl.data.folders import ImageFiles, scan_folder, scan_unlabelled
from erssl.data.left_out import LeftOut
from erssl.data.listing import images_among

NAMES = (["b.JPEG", "ä ö.png", os.fsdecode(b"\xff.png")], [], ["1.jpg"])


@pytest.fixture
def files():
    builder = FileListBuilder()
    for number, names in enumerate(NAMES):
        builder.add(f"/data/c{number}", names, number)
    return builder.build()


@pytest.fixture
def pairs():
    return [(f"/data/c{n}/{name}", n) for n, names in enumerate(NAMES) for name in names]


def test_it_is_the_list_of_pairs(files, pairs):
    assert len(files) == 4 and list(files) == pairs and files == pairs and pairs == files
    assert [files[i] for i in range(-4, 4)] == [pairs[i] for i in range(-4, 4)]
    assert files != pairs[:3] and files != [*pairs[:3], ("/data/c2/1.jpg", 1)]
    with pytest.raises(IndexError):
        files[4]
    assert isinstance(files[0][1], int)
    assert targets_of(files).tolist() == targets_of(pairs).tolist() == [0, 0, 0, 2]


def test_parts_share_the_names(files, pairs):
    assert files[1:3] == pairs[1:3] and files[::-2] == pairs[::-2] and files[5:] == []
    assert files[1:][1:] == pairs[2:]
    assert chosen(files, np.array([3, 0])) == [pairs[3], pairs[0]]
    assert chosen(pairs, np.array([3, 0])) == (pairs[3], pairs[0])
    assert files[1:3]._names is files._names
    paths = Paths(files)
    assert paths[1:3] == [path for path, _ in pairs[1:3]] and paths[0] == pairs[0][0]
    assert list(paths) == [path for path, _ in pairs]


def test_it_travels_to_loader_processes(files, pairs):
    assert pickle.loads(pickle.dumps(files)) == pairs
    assert ImageFiles(files).samples is files
    assert ImageFiles(tuple(pairs)).samples == pairs


def test_no_files_are_an_empty_list():
    none = FileListBuilder().build()
    assert isinstance(none, FileList) and len(none) == 0 and not none and none == []


def test_a_million_names_take_little_memory():
    builder = FileListBuilder()
    for number in range(20):
        builder.add(f"/c{number}", [f"n{number:08d}_{i:05d}.JPEG" for i in range(1000)], number)
    assert builder.build().nbytes * 1_281_167 / 20_000 < 60e6


def test_alike_names_are_the_same_as_one_by_one():
    extensions = (".jpg", ".jpeg", ".png")
    for names in (
        ["a.JPG", "b.JPG"],
        ["a.jpg", "b.JPG"],
        ["a.jpg", ".b.jpg"],
        [".a.jpg", "b.jpg"],
        [".jpg"],
        ["a.txt", "b.txt"],
        ["a", "b"],
        ["x.jpg.gz", "b.jpg"],
        ["a.jpg", "b.jpg.jpg", "c..jpg"],
        [],
    ):
        kept, left_out = [], LeftOut()
        for name in names:
            one = images_among("/x", [name, "other.png"], left_out, extensions)  # never all alike
            kept += one[:-1]
        together = LeftOut()
        assert images_among("/x", names, together, extensions) == kept
        assert together.counts == left_out.counts


def test_nested_folders_and_links_are_in_torchvisions_order(tmp_path):
    for name in ("b/x/2.png", "b/1.png", "a/z.png", "a/Y.png", "b/x-1/0.png", "a/.h/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b/again").symlink_to(tmp_path / "b")
    (tmp_path / "b/gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b/deep").symlink_to(tmp_path / "a")
    folder = scan_folder("x", tmp_path)
    linked = [path for path, _ in folder.samples if "/deep/" in path]
    assert [os.path.basename(path) for path in linked] == ["Y.png", "z.png"]
    os.remove(tmp_path / "b/deep"), os.remove(tmp_path / "b/again")
    (tmp_path / "a/.h/1.png").unlink()
    assert scan_folder("x", tmp_path).samples == ImageFolder(str(tmp_path)).samples
    assert folder.left_out == Counter({"no extension": 1, "hidden": 2})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_counted(tmp_path):
    (tmp_path / "a/closed").mkdir(parents=True)
    (tmp_path / "a/1.png").touch()
    (tmp_path / "a/closed").chmod(0)
    folder = scan_folder("x", tmp_path)
    assert folder.left_out["folder that cannot be read"] == 1


def test_a_flat_folder_is_not_asked_for_every_file(tmp_path, monkeypatch):
    for i in range(300):
        (tmp_path / f"{i:03d}.png").touch()
    asked = []
    monkeypatch.setattr(Path, "is_dir", lambda self: asked.append(self) or True)
    assert len(scan_folder("x", tmp_path).samples) == 300
    assert len(scan_unlabelled("x", tmp_path).samples) == 300
    assert len(asked) == 2


def test_listing_asks_the_system_of_folders_and_not_of_files(tmp_path):
    """A file costs few calls of any function besides, which no clock tells on a busy machine."""
    count = 3000
    for i in range(count):
        (tmp_path / f"{i:04d}.JPEG").touch()
    calls = Counter()

    def note(frame, event, argument):
        calls[argument.__name__ if event == "c_call" else event] += 1

    sys.setprofile(note)
    try:
        scan_unlabelled("x", tmp_path)
    finally:
        sys.setprofile(None)
    assert calls["stat"] + calls["lstat"] < 100
    # 4.9: two questions a file and their returns, and what is asked once
    assert sum(calls.values()) < 7 * count
