import json

import pytest

from erssl.errors import ConfigError, RunError
from erssl.protocols.record import folder_for, leave_results, open_folder
from erssl.run.directory import CONFIG, RUN_DIR_VARIABLE

ABOUT = {
    "protocol": "knn",
    "dataset": "digits",
    "method": "mveb",
    "metrics": {"top1": 0.5},
    "seed": 0,
    "config": {"k": 20},
    "environment": {},
    "wall_seconds": 1.0,
}


@pytest.mark.parametrize("inner", ["", "checkpoints"])
def test_no_evaluation_overwrites_a_pretraining(tmp_path, inner):
    (tmp_path / CONFIG).write_text("method: {name: mveb}\noptimizer: {name: sgd}\n")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(RunError, match="name a folder of its own"):
        open_folder(tmp_path / inner, {"k": 20}, goes_on=False, overwrite=True)


def test_an_evaluation_goes_on_only_as_it_began(tmp_path):
    began, other = {"checkpoint": "run", "k": 20}, {"checkpoint": "run", "k": 5}
    open_folder(tmp_path, began, goes_on=False, overwrite=False).write_config(began)
    open_folder(tmp_path, began, goes_on=True, overwrite=False)
    open_folder(tmp_path, other, goes_on=True, overwrite=False, may_change=["k"])
    with pytest.raises(ConfigError, match="k=5 differs"):
        open_folder(tmp_path, other, goes_on=True, overwrite=False)


def test_results_come_after_the_report_that_reads_them(tmp_path):
    file = tmp_path / "results.json"

    def report(results):
        assert results["metrics"] == {"top1": 0.5}
        assert not file.exists()

    assert leave_results(file, report=report, **ABOUT) == json.loads(file.read_text())
    with pytest.raises(ZeroDivisionError):
        leave_results(tmp_path / "other.json", report=lambda results: 1 / 0, **ABOUT)
    assert not (tmp_path / "other.json").exists()


def test_processes_that_were_started_together_need_a_named_folder(monkeypatch):
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    assert folder_for(None, "knn", "mveb").name.startswith("knn-mveb-2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="run_dir"):
        folder_for(None, "knn", "mveb")
    assert folder_for("mine", "knn").name == "mine"


def test_evaluations_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("erssl.run.directory.time.strftime", lambda _: "now")
    names = []
    for _ in range(3):
        folder = folder_for(None, "knn", "mveb")
        folder.mkdir(parents=True)
        names.append(folder.name)
    assert names == ["knn-mveb-now", "knn-mveb-now-2", "knn-mveb-now-3"]
