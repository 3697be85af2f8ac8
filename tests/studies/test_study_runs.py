"""The runs of a study: those that fail, stop, and are in use by others."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from erssl.protocols import study as command
from erssl.run.children import Children
from erssl.run.lock import holder_of, locked
from erssl.settings.pretrain import read_settings
from erssl.studies import RunStore, read_study

from .small_study import finish, run, written


def test_a_run_that_failed_is_said_and_not_tried_again_unasked(tmp_path: Path) -> None:
    """Its cell says so, with the sentence that ended it."""
    axes = {"method": {"MVEB": {"method": "mveb", "optimizer.base_lr": 1e9}}}
    small = written(tmp_path, axes=axes, skip=[])
    places = (f"store={tmp_path / 'store'}", f"output={tmp_path / 'out'}")
    for _ in range(2):
        result = run(small, *places)
        (only,) = result.results["runs"]
        assert "is not finite" in only["failure"]
        text = (tmp_path / "out" / "study.md").read_text()
        assert "| MVEB | failed |" in text
        assert "Runs that failed" in text


def test_a_study_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder holds the lock of a process that is gone; a damaged result is said."""
    monkeypatch.setattr("erssl.run.lock.SILENT", 0.2)  # two minutes of a machine elsewhere
    monkeypatch.setattr("erssl.run.lock._LOOK", 0.05)
    small = written(tmp_path, axes={"method": {"SimCLR": {"method": "simclr"}}}, skip=[])
    places = (f"store={tmp_path / 'store'}", f"output={tmp_path / 'out'}")
    (tmp_path / "out").mkdir()
    lock = tmp_path / "out" / ".erssl-lock"
    lock.write_text("{}")
    planned = command._planned(
        read_study(small).grid(read_study(small).scale("tiny")).cells[0],
        RunStore(tmp_path / "store"),
    )
    planned.path.mkdir(parents=True)
    config = read_settings(list(planned.cell.overrides))[1]
    (planned.path / "config.yaml").write_text(yaml.safe_dump(config))
    (planned.path / "results.json").write_text("")
    result = run(small, "only=0", *places)
    damaged = planned.path / "results.json"
    assert result.results["runs"][0]["failure"].startswith(f"{damaged} is not what a run writes")
    assert str(damaged) in (tmp_path / "out" / "study.md").read_text().replace("\\", "")
    assert not lock.exists()


def _one_run(folder: Path) -> tuple[str, tuple[str, ...], command.Planned]:
    """A study of one run, its arguments, and that run."""
    small = written(folder, axes={"method": {"SimCLR": {"method": "simclr"}}}, skip=[])
    cell = read_study(small).grid(read_study(small).scale("tiny")).cells[0]
    places = (f"store={folder / 'store'}", f"output={folder / 'out'}")
    return small, places, command._planned(cell, RunStore(folder / "store"))


def test_a_run_that_was_stopped_or_is_trained_elsewhere_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first by its status, the second by its lock; both go on, or are read, the next time."""
    monkeypatch.setattr("erssl.run.waiting.PATIENCE", 0.1)
    small, places, planned = _one_run(tmp_path)
    for status, lock in ((143, False), (-9, False), (2, True)):
        planned.path.mkdir(parents=True, exist_ok=True)
        if lock:
            (planned.path / ".erssl-lock").write_text("{}")
        monkeypatch.setattr(Children, "run", lambda *_, s=status, **__: s)
        result = run(small, *places)
        (outcome,) = result.results["runs"]
        in_use_by = "another process" if lock else None
        assert (outcome["failure"], outcome["in_use_by"]) == (None, in_use_by), status
    assert "1 are in use by another process" in (tmp_path / "out" / "study.md").read_text()
    (planned.path / ".erssl-lock").unlink()
    result = run(small, *places)
    assert result.results["runs"][0]["failure"] == "it ended with status 2."


@pytest.mark.parametrize("further", [(), ("jobs=2",), ("hydra/launcher=basic",)])
def test_a_study_comes_back_to_a_run_that_another_process_lets_go(
    further: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is trained once it is free, also where it came into use after the study had looked."""
    monkeypatch.setattr("erssl.run.waiting._LOOK", 0.02)
    small, places, planned = _one_run(tmp_path)
    started: list[bool] = []

    def trained(self: Any, words: list[str], *_: Any, heard: Any, **__: Any) -> int:
        started.append(holder_of(planned.path) is not None)
        if len(started) == 1:  # another study was quicker, and was killed
            heard(f"erssl: run_dir={planned.path} is in use by process 1 on\n")
            heard("node; wait for its end.\n")
            return 2
        heard("erssl: What is wrong\n")
        heard("with it.\n")
        return 2

    monkeypatch.setattr(Children, "run", trained)
    taken, waited_for = threading.Event(), threading.Event()
    monkeypatch.setattr("erssl.run.waiting.say", lambda *_: waited_for.set())

    def other() -> None:
        with locked(planned.path):
            taken.set()
            assert waited_for.wait(20)

    holder = threading.Thread(target=other)
    holder.start()
    assert taken.wait(20)
    result = run(small, *places, *further)
    holder.join()
    assert started == [False, False]
    assert result.results["runs"][0]["failure"] == "What is wrong with it."


def test_a_run_that_another_process_finishes_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained then."""
    monkeypatch.setattr("erssl.run.waiting._LOOK", 0.02)
    monkeypatch.setattr(Children, "run", lambda *_, **__: pytest.fail("it was trained"))
    read: list[Path] = []

    def readings(folder: Path) -> None:
        read.append(folder)
        digest = hashlib.sha256((folder / "results.json").read_bytes()).hexdigest()
        content = {"of": digest, "readings": {"features_rankme": 1.0}}
        (folder / "readings.json").write_text(json.dumps(content))

    monkeypatch.setattr("erssl.protocols.study_runs.readings_of", readings)
    small, places, planned = _one_run(tmp_path)
    taken, waited_for = threading.Event(), threading.Event()
    monkeypatch.setattr("erssl.run.waiting.say", lambda *_: waited_for.set())

    def other() -> None:
        with locked(planned.path):
            taken.set()
            assert waited_for.wait(20)
            finish(planned)

    holder = threading.Thread(target=other)
    holder.start()
    assert taken.wait(20)
    run(small, *places)
    holder.join()
    run(small, *places)
    assert read == [planned.path]
    (planned.path / "images.json").unlink()  # as where a study was killed while it read
    run(small, "only=0", *places)
    assert read == [planned.path]
    run(small, *places)
    assert read == [planned.path] * 2
    (planned.path / "readings.json").unlink()  # as of a build that had none, or could make none
    run(small, *places)
    assert read == [planned.path] * 3


def test_a_run_that_begins_after_the_store_was_read_is_the_same_run(tmp_path: Path) -> None:
    """Two studies that begin together train it once; a folder of other settings stays another."""
    _, _, planned = _one_run(tmp_path)
    store = RunStore(tmp_path / "store")
    key, name = planned.plan.asked, planned.path.name
    finish(planned)
    assert store.place(key, "simclr") == planned.path
    other = planned.path.with_name(f"simclr-{'0' * 12}")
    planned.path.rename(other)  # the name that another key would have
    assert store.place("0" * 64, "simclr").name == f"{other.name}-2"
    later = RunStore(tmp_path / "store")
    assert later.place(key, "simclr") == other != tmp_path / "store" / name


@pytest.mark.parametrize("asked", [True, False])
def test_a_study_that_names_the_linear_accuracy_measures_it_of_finished_runs(
    asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and not where a run ended with one, nor where the study's file does not name it."""
    measured: list[Path] = []

    def linear(folder: Path) -> dict[str, float]:
        measured.append(folder)
        digest = hashlib.sha256((folder / "results.json").read_bytes()).hexdigest()
        (folder / "linear.json").write_text(
            json.dumps({"of": digest, "readings": {"linear_top1": 0.75}})
        )
        return {"linear_top1": 0.75}

    monkeypatch.setattr("erssl.protocols.study_runs.linear_of", linear)
    monkeypatch.setattr("erssl.protocols.study_runs.readings_of", lambda _: {})
    named = {"metrics": ["knn_top1", "linear_top1"]} if asked else {}
    axes = {"method": {"SimCLR": {"method": "simclr"}, "MVEB": {"method": "mveb"}}}
    small = written(tmp_path, axes=axes, skip=[], **named)
    study = read_study(small)
    store = RunStore(tmp_path / "store")
    cells = study.grid(study.scale("tiny")).cells
    first, second = (command._planned(cell, store) for cell in cells)
    finish(first, knn_top1=0.5)
    finish(second, knn_top1=0.25, linear_top1=0.5)
    places = (f"store={tmp_path / 'store'}", f"output={tmp_path / 'out'}")
    for _ in range(2):
        runs = run(small, *places).results["runs"]
        values = [each["metrics"].get("linear_top1") for each in runs]
        assert values == [0.75 if asked else None, 0.5]
    assert measured == ([first.path] if asked else [])
    other = written(tmp_path, axes=axes, skip=[])  # which does not ask, of the same runs
    (run_, _) = run(other, places[0], f"output={tmp_path / 'other'}").results["runs"]
    assert "linear_top1" not in run_["metrics"]
