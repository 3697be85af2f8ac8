"""``logger=`` of the evaluations that train: settings, epochs and results reach each tracker."""

import csv
import json

import pytest

from .conftest import CACHED, HERE, QUICK, evaluate
from .test_loggers import Listening, offline, records  # noqa: F401 - a fixture
from .test_pretrain import results_of

OWN = f"{Listening.__module__}.Listening"
BRIEF = (*QUICK, "epochs=2", "batch_size=512", "trainer.log_every_n_steps=1")
PROTOCOLS = {
    "augmented": ("linear", *BRIEF),
    "cached": ("linear", *CACHED, "epochs=2"),
    "semi": ("semi", *BRIEF, "fraction=0.1", "backbone_lr=0.01"),
    "finetune": ("finetune", *BRIEF, "epochs=1", "backbone_lr=0.01"),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_ones_own_logger_is_told_settings_epochs_and_results(tiny_run, tmp_path, name):
    command = (*PROTOCOLS[name], f"checkpoint={tiny_run}", f"logger={OWN}")
    assert evaluate(tmp_path / "one", *command, "logger_options.Listening.greeting=hi") == 0
    assert Listening.told[0] == ("made", "hi", None)
    (parameters,) = [told[1] for told in Listening.told if told[0] == "parameters"]
    assert (parameters["protocol"], parameters["seed"]) == (PROTOCOLS[name][0], 0)
    assert parameters["data.name"] == "digits" and "digests.weights" in parameters
    assert all(isinstance(value, str | int | float) for value in parameters.values())
    logged = [told[1] for told in Listening.told if told[0] == "metrics"]
    kept = json.loads((tmp_path / "one" / "seed0" / "seed.json").read_text())
    accuracies = [row["val_top1"] for row in logged if "val_top1" in row]
    assert accuracies == pytest.approx([row["top1"] for row in kept["history"]])
    assert any("train_loss" in row for row in logged)
    assert logged[-1] == {f"result/{k}": v for k, v in kept["metrics"].items()}
    results = results_of(tmp_path / "one")["metrics"]
    assert logged[-1]["result/top1"] == results["top1"]
    assert Listening.told[-1] == ("end", "success")
    with (tmp_path / "one" / "seed0" / "metrics.csv").open() as file:
        rows = [float(row["val_top1"]) for row in csv.DictReader(file) if row["val_top1"]]
    assert rows == pytest.approx(accuracies)
    assert not list((tmp_path / "one").rglob("events.out.tfevents.*"))  # not asked for


def test_each_seed_is_a_training_of_its_own_and_a_finished_one_is_not_told_again(
    tiny_run, tmp_path
):
    command = (*PROTOCOLS["cached"], f"checkpoint={tiny_run}", f"logger={OWN}")
    assert evaluate(tmp_path / "one", *command, "seeds=2") == 0
    seeds = [told[1]["seed"] for told in Listening.told if told[0] == "parameters"]
    assert seeds == [0, 1]
    Listening.told = []
    # other loggers change nothing of what is computed
    assert evaluate(tmp_path / "one", *command[:-1], "seeds=2", "resume=true", "logger=csv") == 0
    assert evaluate(tmp_path / "one", *command, "seeds=2", "resume=true") == 0
    assert Listening.told == []


@pytest.mark.parametrize("name", ["cached", "finetune"])
def test_a_logger_that_does_not_start_leaves_no_evaluation(tiny_run, tmp_path, capsys, name):
    command = (*PROTOCOLS[name], f"checkpoint={tiny_run}")
    refusing = f"logger={Listening.__module__}.Refusing"
    assert evaluate(tmp_path / "one", *command, refusing) == 2
    assert "no route to host" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "one").exists()
    assert evaluate(tmp_path / "two", *command, "logger=wandbb") == 2
    assert "did you mean wandb" in capsys.readouterr().err
    assert evaluate(tmp_path / "two", *command, "logger_options.wandb.project=x") == 2
    assert "read by none of the loggers" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "two").exists()


def test_features_taken_once_have_curves_in_tensorboard_and_wandb(tiny_run, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("wandb")
    command = (*PROTOCOLS["cached"], f"checkpoint={tiny_run}", "logger=[tensorboard,wandb]")
    assert evaluate(tmp_path / "one", *command) == 0
    folder = tmp_path / "one" / "seed0"
    history = json.loads((folder / "seed.json").read_text())["history"]
    read = events.EventAccumulator(str(folder))
    read.Reload()
    curve = [event.value for event in read.Scalars("val_top1")]
    assert curve == pytest.approx([row["top1"] for row in history])
    name = json.loads((folder / "loggers.json").read_text())["wandb"]
    (run,) = (folder / "wandb").glob("offline-run-*")
    config, rows = records(run / f"run-{name}.wandb")
    assert json.loads(config["protocol"]) == "linear"
    told = [float(row["val_top1"]) for row in rows if "val_top1" in row]
    assert told == pytest.approx(curve)
    assert any("result/top1" in row for row in rows)


def test_knn_trains_nothing_and_takes_no_logger(tiny_run, tmp_path, capsys):
    words = ("knn", *HERE[1:], f"checkpoint={tiny_run}", "logger=csv")
    assert evaluate(tmp_path / "one", *words) == 2
    assert "logger" in capsys.readouterr().err
