"""``logger=`` of ``erssl detect``."""

import pytest

from erssl.cli.main import main
from erssl.downstream.detection.job import DetectionOutcome
from erssl.protocols import detect as command
from tests.cli.test_loggers import Listening

from .test_detect_command import overrides  # noqa: F401 - a fixture

OWN = f"{Listening.__module__}.Listening"


@pytest.fixture(autouse=True)
def silence():
    Listening.told = []


def test_ones_own_logger_is_told_settings_iterations_and_results(overrides, tmp_path):  # noqa: F811
    more = ["recipe=faster_rcnn_fpn_1x", "iterations=2"]
    assert main(["detect", *overrides, *more, f"logger={OWN}"]) == 0
    (parameters,) = [told[1] for told in Listening.told if told[0] == "parameters"]
    assert parameters["protocol"] == "detect" and parameters["iterations"] == 2
    logged = [(told[1], told[2]) for told in Listening.told if told[0] == "metrics"]
    assert [step for row, step in logged if "train_loss" in row] == [0, 1]
    assert "result/box_AP" in logged[-1][0]
    assert (tmp_path / "run" / "metrics.csv").is_file()
    assert Listening.told[-1] == ("end", "success")


def test_of_detectron2_trackers_learn_what_came_out(overrides, tmp_path, monkeypatch, capsys):  # noqa: F811
    jobs = []

    def backend(job):
        jobs.append(job)
        return DetectionOutcome({"box_AP": 0.25}, {})

    monkeypatch.setattr(command, "find_backend", lambda *_: backend)
    words = [each for each in overrides if not each.startswith("backend")]
    assert main(["detect", *words, "backend=detectron2", f"logger={OWN}"]) == 0
    assert [told[1] for told in Listening.told if told[0] == "metrics"] == [{"result/box_AP": 0.25}]
    assert not (tmp_path / "run" / "metrics.csv").exists()
    words = [each if "run_dir" not in each else f"run_dir={tmp_path / 'b'}" for each in words]
    refusing = f"logger={Listening.__module__}.Refusing"
    assert main(["detect", *words, "backend=detectron2", refusing]) == 2
    assert "no route to host" in " ".join(capsys.readouterr().err.split())
    assert len(jobs) == 1 and not (tmp_path / "b").exists()
