"""Commands side by side, by processes of this machine and by a launcher of hydra."""

import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.version import getbase

import erssl
from erssl.errors import ConfigError
from erssl.run import children as _children
from erssl.run import launch as _launch
from erssl.run.launch import Ended, launch

RECORD = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
began = time.time()
time.sleep(float(sys.argv[3]))
seen = os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.environ["OMP_NUM_THREADS"]
(folder / sys.argv[2]).write_text(repr((began, time.time(), *seen)))
"""


@pytest.fixture
def record(tmp_path, monkeypatch):
    """In place of erssl: a command that says when it ran, and what it saw."""
    script = tmp_path / "record.py"
    script.write_text(RECORD)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    original = _children.subprocess.Popen

    def run(command, **options):
        assert command[0] == sys.executable
        assert Path(command[1]).name == "child.py"
        return original([sys.executable, str(script), str(tmp_path), *command[2:]], **options)

    monkeypatch.setattr(_children.subprocess, "Popen", run)

    def read(name):
        return eval((tmp_path / name).read_text())

    return read


def test_as_many_as_asked_for_run_at_once(record):
    launch([["a", "2"], ["b", "2"], ["c", "0.1"]], jobs=2)
    (a0, a1, *_), (b0, b1, *_), (c0, *_) = map(record, "abc")
    assert max(a0, b0) < min(a1, b1)
    assert c0 > min(a1, b1)


def test_each_has_a_device_of_its_own(record, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    launch([["a", "1"], ["b", "1"]], jobs=2)
    assert {record(name)[2] for name in "ab"} == {"0", "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")  # a scheduler's
    launch([["a", "1"], ["b", "1"]], jobs=2)
    assert {record(name)[2] for name in "ab"} == {"5", "7"}


def test_the_cores_are_shared_and_one_that_fails_stops_no_other(record, monkeypatch):
    monkeypatch.setattr(_launch.os, "cpu_count", lambda: 8)
    launch([["none/a", "0"], ["b", "0"]], jobs=4)  # the first has no folder to write to
    assert record("b")[3] == "2"


def test_hydras_own_launcher_runs_them_and_leaves_the_process_as_it_was(record, tmp_path):
    before = list(sys.argv)
    with initialize_config_module("erssl.configs", version_base="1.2"):  # of a program around it
        launch([["a", "0"], ["b", "0"]], 1, ["hydra/launcher=basic"], tmp_path / "by hydra")
        assert (str(getbase()), compose("knn").k) == ("1.2", 200)
        with pytest.raises(ConfigError, match="hydra refuses hydra/launcher=slurmm"):
            launch([["a"]], 1, ["hydra/launcher=slurmm"], tmp_path)
        assert (str(getbase()), compose("knn").k) == ("1.2", 200)
    assert record("a")[1] <= record("b")[0]
    assert sys.argv == before and not HydraConfig.initialized()
    assert _launch.os.environ.get("HYDRA_FULL_ERROR") is None


def test_joblibs_launcher_runs_them_in_processes_of_its_own(tmp_path, capfd):
    overrides = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    first, second = launch([["--version"], ["pretrian"]], 1, overrides, tmp_path / "joblib")
    assert capfd.readouterr().out.splitlines() == [f"erssl {erssl.__version__}"]
    assert first == Ended(0, "")
    assert second.status == 2
    assert second.sentence.startswith("There is no command 'pretrian' (did you mean pretrain?)")
    assert not list((tmp_path / "joblib").glob("ended-*"))


def test_a_launcher_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="hydra refuses hydra/launcher=slurmm"):
        launch([["a"]], 1, ["hydra/launcher=slurmm"], tmp_path)
