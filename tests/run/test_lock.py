"""The lock of a run directory: alive, stale, of another machine, taken by several at once."""

import json
import os
import subprocess
import sys
import time

import pytest

from erssl.errors import RunError
from erssl.run import lock
from erssl.run.lock import NAME, SILENT, locked


def test_a_folder_that_is_in_use_is_refused_and_given_back(tmp_path):
    folder = tmp_path / "deep" / "run"
    with locked(folder):
        in_use = f"is in use by process {os.getpid()} on "
        with pytest.raises(RunError, match=in_use), locked(folder):
            pass
        assert [p.name for p in folder.iterdir()] == [NAME]
    assert list(tmp_path.iterdir()) == []  # nothing else was written
    with locked(folder):
        (folder / "config.yaml").touch()
    assert [p.name for p in folder.iterdir()] == ["config.yaml"]


def test_the_lock_of_a_killed_process_counts_at_once(tmp_path):
    code = "from erssl.run.lock import locked\nfrom pathlib import Path\nimport os, signal\n"
    code += f"with locked(Path({str(tmp_path)!r})):\n    os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    left = json.loads((tmp_path / NAME).read_text())
    with locked(tmp_path):
        pass
    # the number of a process that is alive, but began at another time
    (tmp_path / NAME).write_text(json.dumps({**left, "pid": os.getpid()}))
    with locked(tmp_path):
        pass


def of_another_machine(folder):
    """A lock that a process of another machine has taken a moment ago."""
    with locked(folder):
        content = json.loads((folder / NAME).read_text())
    file = folder / NAME
    file.write_text(json.dumps({**content, "machine": "m", "node": "elsewhere", "pid": 1}))
    return file


def once_waited_for(monkeypatch, action):
    """Let something happen when the first look has found the lock, before the second."""
    sentence = lock._Lock._waiting

    def waiting(*arguments):
        action()
        return sentence(*arguments)

    monkeypatch.setattr(lock._Lock, "_waiting", waiting)


WAITING = "was in use by process 1 on elsewhere a moment ago; waiting for a sign of life, at most"


def test_a_process_elsewhere_is_waited_for_until_it_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_LOOK", 0.01)
    file = of_another_machine(tmp_path)
    once_waited_for(monkeypatch, lambda: os.utime(file))
    in_use = f"process 1 on elsewhere; .*delete {file}"
    with (
        pytest.warns(UserWarning, match=f"{WAITING} 120 s"),
        pytest.raises(RunError, match=in_use),
        locked(tmp_path),
    ):
        pass


def test_a_process_elsewhere_that_stays_silent_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_LOOK", 0.01)
    monkeypatch.setattr(lock, "SILENT", 0.3)
    for ahead in (0, 1000):  # and where the clock of its file has jumped
        file = of_another_machine(tmp_path)
        os.utime(file, (time.time() + ahead,) * 2)
        began = time.monotonic()
        with pytest.warns(UserWarning, match=WAITING), locked(tmp_path):
            assert time.monotonic() - began > 0.2
            assert json.loads(file.read_text())["pid"] == os.getpid()


def test_a_lock_that_is_given_back_while_it_is_waited_for_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_LOOK", 0.01)
    once_waited_for(monkeypatch, of_another_machine(tmp_path).unlink)
    with pytest.warns(UserWarning, match=WAITING), locked(tmp_path):
        pass


def test_a_lock_that_was_silent_for_long_counts_at_once_and_one_that_is_held_is_touched(
    tmp_path, monkeypatch
):
    file = of_another_machine(tmp_path)
    past = time.time() - SILENT - 1
    os.utime(file, (past, past))
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with locked(tmp_path):
        os.utime(file, (past, past))
        until = time.monotonic() + 5
        while file.stat().st_mtime == past and time.monotonic() < until:
            time.sleep(0.01)
        assert file.stat().st_mtime > past


@pytest.mark.parametrize("content", [None, '{"pid": 4194999}', "", "no lock"])
def test_of_several_at_once_one_has_it(content, tmp_path):
    if content is not None:
        (tmp_path / NAME).write_text(content)
        past = time.time() - SILENT - 1
        os.utime(tmp_path / NAME, (past, past))
    code = "import sys\nfrom pathlib import Path\nfrom erssl.run.lock import locked\n"
    code += "print('ready', flush=True)\nsys.stdin.readline()\n"
    code += f"with locked(Path({str(tmp_path)!r})):\n"
    code += "    print('mine', flush=True)\n    sys.stdin.readline()"  # until the others have ended
    begin = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([sys.executable, "-c", code], **begin) for _ in range(4)]
    assert [process.stdout.readline() for process in processes] == [b"ready\n"] * 4
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    said = [process.stdout.readline() for process in processes]  # empty where one has ended
    assert sorted(said) == [b"", b"", b"", b"mine\n"]
    for process in processes:
        process.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_left_to_whoever_writes(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lock._Lock, "_create", refuse)
    with locked(tmp_path):
        pass
    (tmp_path / "file").touch()
    with locked(tmp_path / "file"):
        pass
