"""The decode check: of a sample, and going on where it ended."""

import os

import numpy as np
import pytest
from PIL import Image

from erssl.data import default_options, images, load_datasets
from erssl.data.checked_files import CheckedFiles, block_digest
from erssl.data.folders import drop_unreadable, scan_folder
from erssl.data.images import find_unreadable
from erssl.errors import ConfigError, DataError

BLOCK = 4


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ERSSL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(images, "_BLOCK", BLOCK)
    monkeypatch.setattr("erssl.data.folders._MANY", BLOCK)
    for i in range(10):
        path = tmp_path / f"images/c{i % 2}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(path)
    (tmp_path / "images/c1/3.png").write_bytes(b"no image")
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch):
    paths, fault = [], images.fault_of_file

    def counted(path, **options):
        paths.append(os.path.basename(path))
        return fault(path, **options)

    monkeypatch.setattr(images, "fault_of_file", counted)
    return paths


def load_imagefolder(**options):
    return load_datasets(default_options("imagefolder", **options))


def skip(folder, **options):
    kept, faults = drop_unreadable(scan_folder("x", folder), "skip", 1, **options)
    return [os.path.basename(path) for path, _ in kept.samples], faults


def test_a_second_check_decodes_what_has_changed(folder, decoded):
    first = skip(folder)
    assert first[0] == [f"{i}.png" for i in (0, 2, 4, 6, 8, 1, 5, 7, 9)]
    assert first[1] == [(str(folder / "c1/3.png"), "not an image")]
    assert len(decoded) == 10
    decoded.clear()
    assert skip(folder) == first and not decoded
    os.utime(folder / "c1/7.png", ns=(1, 1))  # in the last block, of two
    assert skip(folder) == first and sorted(decoded) == ["7.png", "9.png"]
    Image.new("RGB", (4, 4)).save(folder / "c1/3.png")
    assert skip(folder)[1] == []


def test_a_check_that_was_killed_goes_on(folder, decoded, monkeypatch):
    expected = skip(folder)[1]
    monkeypatch.setenv("ERSSL_HOME", str(folder.parent / "other"))
    fault = images.fault_of_file

    def killed(path, **options):
        if path.endswith("7.png"):
            raise KeyboardInterrupt
        return fault(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(images, "fault_of_file", killed)
        with pytest.raises(KeyboardInterrupt):
            skip(folder)
    [record] = (folder.parent / "other/checked").iterdir()
    with record.open("a") as file:
        file.write('{"files": "ab')  # half a line
    decoded.clear()
    assert skip(folder)[1] == expected
    assert sorted(decoded) == ["7.png", "9.png"]


def test_few_files_are_checked_each_time(folder, decoded, monkeypatch):
    monkeypatch.setattr("erssl.data.folders._MANY", 10)
    skip(folder), skip(folder)
    assert len(decoded) == 20 and not (folder.parent / "home").exists()


def test_a_sample_is_spread_over_the_folder(folder, decoded):
    kept, faults = skip(folder, sampled=3)
    assert decoded == ["0.png", "8.png", "9.png"]
    assert len(kept) == 10 and faults == []  # none of the three is broken
    with pytest.raises(DataError, match=r"1 of 9 images that were tried of the 10 in .*3\.png: "):
        skip(folder, sampled=9)
    assert len(skip(folder, sampled=10)[0]) == 9  # all


def test_the_option_takes_a_number(folder, decoded):
    with pytest.raises(DataError, match="1 of the 10 images"):
        load_imagefolder(train_dir=str(folder), num_workers=0)
    decoded.clear()
    assert len(load_imagefolder(train_dir=str(folder), verify=2, num_workers=0).train) == 10
    assert decoded == ["0.png", "9.png"]
    for wrong in (0, -1, 1.5, "no"):
        with pytest.raises(ConfigError, match=r"neither true nor false nor a number of images"):
            load_imagefolder(train_dir=str(folder), verify=wrong)
    with pytest.raises(ConfigError, match=r"needs data\.verify=true and it is 2"):
        load_imagefolder(train_dir=str(folder), verify=2, on_error="skip")


def test_a_place_that_cannot_be_written_to_is_said_once(folder, monkeypatch):
    (folder.parent / "file").touch()
    monkeypatch.setenv("ERSSL_HOME", str(folder.parent / "file"))
    with pytest.warns(UserWarning, match="cannot be kept in .*begins anew") as caught:
        skip(folder)
    assert len(caught) == 1


def test_what_was_read_otherwise_is_not_known(folder, monkeypatch):
    paths = [path for path, _ in scan_folder("x", folder).samples]
    find_unreadable(paths, checked=CheckedFiles(folder, 3))
    name = block_digest(paths[:BLOCK])
    assert CheckedFiles(folder, 3).known(name) == ([], [], [])
    assert CheckedFiles(folder, 1).known(name) is None
    monkeypatch.setattr("PIL.__version__", "later")
    assert CheckedFiles(folder, 3).known(name) is None


def test_channels_that_are_not_read_are_counted_over_all_blocks_and_kept(folder):
    for name in ("c0/a.tif", "c0/b.tif", "c1/z.tif"):
        Image.new("RGBA", (4, 4)).save(folder / name)
    for _ in range(2):  # decoded, then known
        kept, _ = drop_unreadable(scan_folder("x", folder), "skip", 1)
        assert len(kept.further_channels) == 3
