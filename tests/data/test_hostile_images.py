"""Files among images that would be waited for, be handed to a program, or never end."""

import os

import pytest

from erssl.data.folders import drop_unreadable, scan_folder
from erssl.data.images import find_unreadable, load_image
from erssl.errors import DataError

from .data_images import noise


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DataError, match="pipe"):
        load_image(tmp_path / "x.png")
    assert find_unreadable([tmp_path / "x.png"]) == [(str(tmp_path / "x.png"), "a pipe or device")]


def test_postscript_under_the_name_of_a_image_starts_no_program(tmp_path, monkeypatch):
    # Pillow goes by content and hands this to Ghostscript
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "cat.jpg").write_bytes(text)
    with pytest.raises(DataError, match="not an image"):
        load_image(tmp_path / "cat.jpg")


def test_links_to_the_folder_above_do_not_multiply_the_images(make_folder):
    folder = make_folder(count=2)
    for name in ("up", "again", "more"):  # three ways at each of 40 levels
        (folder / "cat" / name).symlink_to(".", target_is_directory=True)
    images = scan_folder("data.train_dir", folder)
    assert [os.path.relpath(path, folder) for path, _ in images.samples] == [
        "cat/0.png",
        "cat/1.png",
        "dog/0.png",
        "dog/1.png",
    ]


def test_a_linked_folder_is_still_read(make_folder, tmp_path):
    folder = make_folder(count=1)
    (tmp_path / "elsewhere").mkdir()
    noise(seed=5).save(tmp_path / "elsewhere" / "9.png")
    (folder / "cat" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    names = [os.path.relpath(path, folder) for path, _ in scan_folder("x", folder).samples]
    assert names == ["cat/0.png", "cat/linked/9.png", "dog/0.png"]


def test_a_pipe_among_images_is_left_out_by_request(make_folder):
    folder = make_folder(count=1)
    os.mkfifo(folder / "cat" / "pipe.png")
    kept, faults = drop_unreadable(scan_folder("x", folder), "skip", workers=2)
    assert [len(kept.samples), len(faults)] == [2, 1]
