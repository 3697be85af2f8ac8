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


def test_a_process_elsewhere_is_alive_while_it_touches_its_lock(tmp_path, monkeypatch):
    with locked(tmp_path):
        content = json.loads((tmp_path / NAME).read_text())
    file = tmp_path / NAME
    file.write_text(json.dumps({**content, "machine": "m", "node": "elsewhere", "pid": 1}))
    in_use = f"process 1 on elsewhere; .*delete {file}"
    with pytest.raises(RunError, match=in_use), locked(tmp_path):
        pass
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
    code = "import sys, time\nfrom pathlib import Path\nfrom erssl.run.lock import locked\n"
    code += "sys.stdin.readline()\n"
    code += f"with locked(Path({str(tmp_path)!r})):\n    print('mine'); time.sleep(1)"
    begin = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([sys.executable, "-c", code], **begin) for _ in range(4)]
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in processes]
    assert sorted(said) == [b"", b"", b"", b"mine\n"]
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
