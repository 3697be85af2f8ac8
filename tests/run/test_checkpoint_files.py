"""Checkpoint files: what is left after a crash, and how damage is met."""

import errno
import os
import zipfile
from pathlib import Path

import pytest
import torch

from erssl.errors import RunError
from erssl.run.checkpoint_files import WholeCheckpointIO, newest_whole, state_of, write_checkpoint


def content(step):
    return {"global_step": step, "weights": torch.full((50, 3), float(step)), "names": ["a", "b"]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints" / "last.ckpt"


def written(path, steps, keep=3):
    for step in steps:
        write_checkpoint(content(step), path, keep)
    return path


def steps_of(path):
    files = sorted(path.parent.iterdir(), key=lambda f: f.stat().st_mtime_ns, reverse=True)
    return {f.name: torch.load(f, weights_only=True)["global_step"] for f in files}


def test_the_last_ones_stay_and_torch_reads_them(path):
    written(path, range(1, 6))
    assert steps_of(path) == {"last.ckpt": 5, "last-1.ckpt": 4, "last-2.ckpt": 3}
    for mmap in (False, True):
        actual = torch.load(path, weights_only=True, mmap=mmap)
        torch.testing.assert_close(actual["weights"], content(5)["weights"], rtol=0, atol=0)
    assert zipfile.ZipFile(path).testzip() is None
    assert newest_whole(path).step == 5
    assert newest_whole(path.with_name("other.ckpt")) is None
    written(path, [6], keep=1)
    assert steps_of(path)["last.ckpt"] == 6


def test_the_digest_is_that_of_the_file_before_it(path):
    import hashlib

    data = written(path, [1]).read_bytes()
    assert data[-77:-64] == b"erssl-sha256:"
    assert hashlib.sha256(data[:-77]).hexdigest().encode() == data[-64:]


@pytest.mark.parametrize("place", ["first", "data", "middle", "digest"])
def test_one_wrong_bit_anywhere_is_seen(path, place):
    data = bytearray(written(path, [1, 2]).read_bytes())
    where = {"first": 0, "data": 300, "middle": len(data) // 2, "digest": len(data) - 1}[place]
    data[where] ^= 1
    path.write_bytes(data)
    assert state_of(path) == "damaged"
    with pytest.warns(UserWarning, match=r"last\.ckpt in .* is damaged .* last-1\.ckpt, step 1"):
        assert newest_whole(path).path.name == "last-1.ckpt"


@pytest.mark.parametrize("length", [0, 1, 77, 500, -1, -80])
def test_a_file_that_was_cut_is_seen(path, length):
    data = written(path, [1]).read_bytes()
    path.write_bytes(data[:length])
    assert state_of(path) == "damaged"
    with pytest.raises(RunError, match=r"is no readable checkpoint, nor is any before it \(1"):
        newest_whole(path)


def test_a_checkpoint_without_digest_is_read_to_the_end(path):
    written(path, [1])
    torch.save(content(7), path)
    assert state_of(path) == "unsigned"
    assert newest_whole(path).step == 7
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((5,), 7.0).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    assert state_of(path) == "damaged"


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("call", range(1, 9))
def test_whatever_step_of_writing_is_the_last_a_whole_one_remains(path, call, monkeypatch):
    """Between any two calls to the system the newest whole checkpoint is the old or the new."""
    written(path, [1, 2, 3])
    calls = []

    def counted(function):
        def wrapper(*arguments, **keywords):
            calls.append(function.__name__)
            if len(calls) == call:
                raise Crash
            return function(*arguments, **keywords)

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr("erssl.run.checkpoint_files.torch.save", counted(torch.save))
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(os, "link", counted(os.link))
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process tidies nothing
        try:
            write_checkpoint(content(4), path, 3)
        except Crash:
            assert len(calls) == call
        else:
            assert len(calls) < call
    assert path.is_file()
    assert newest_whole(path).step == (4 if call > 6 else 3)
    write_checkpoint(content(5), path, 3)
    assert newest_whole(path).step == 5
    assert min(steps_of(path).values()) >= 1
    assert not list(path.parent.glob("*.partial"))


def test_without_hard_links_the_older_ones_stay_as_well(path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    written(path, [1, 2])
    assert steps_of(path) == {"last.ckpt": 2, "last-1.ckpt": 1}


def test_a_full_disk_leaves_everything_and_names_the_file(path, monkeypatch):
    written(path, [1, 2])
    before = steps_of(path)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*last\.ckpt") as caught:
        write_checkpoint(content(3), path, 3)
    assert caught.value.errno == errno.ENOSPC
    assert steps_of(path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_fills_while_torch_writes_is_told_as_such(path, monkeypatch):
    path.parent.mkdir()
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda *_, **__: opened(Path("/dev/full"), "wb", buffering=0))
    with pytest.raises(OSError, match="No space left on device"):
        write_checkpoint(content(1), path)


def test_a_damaged_file_does_not_push_out_a_whole_one(path):
    written(path, [1, 2], keep=2)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning):
        actual = newest_whole(path)
    files = WholeCheckpointIO(2, actual)
    files.save_checkpoint(content(3), path)
    assert steps_of(path) == {"last.ckpt": 3, "last-1.ckpt": 1}
    files.save_checkpoint(content(4), path)
    assert steps_of(path) == {"last.ckpt": 4, "last-1.ckpt": 3}
