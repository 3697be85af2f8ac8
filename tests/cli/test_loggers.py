"""``logger=``: settings, metrics and results reach each tracker, and a resumed run is one run."""

import csv
import json
import os

import pytest
import yaml
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

import erssl
from erssl.cli.main import main
from erssl.errors import ConfigError
from erssl.protocols.loggers import make_loggers, reporting

from .test_pretrain import TINY, UNMEASURED, results_of

RUN = (*TINY, *UNMEASURED, "method=simclr", "lens.probe_size=0", "trainer.limit_train_batches=2")
RUN = (*RUN, "trainer.log_every_n_steps=1")


class Listening(Logger):
    """What a user's own logger is told."""

    told: list = []  # noqa: RUF012

    def __init__(self, greeting="hello", version=None):
        super().__init__()
        self.greeting = greeting
        self.number = version or f"run{len(self.told)}"
        self.told.append(("made", greeting, version))

    name = "listening"

    @property
    def version(self):
        return self.number

    @rank_zero_only
    def log_hyperparams(self, params):
        self.told.append(("parameters", params))

    @rank_zero_only
    def log_metrics(self, metrics, step=None):
        self.told.append(("metrics", metrics, step))

    def finalize(self, status):
        self.told.append(("end", status))


class Refusing(Listening):
    """One that cannot be reached."""

    def __init__(self):
        raise RuntimeError("no route to host")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No test asks a server, nor leaves files outside its folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    Listening.told = []


def pretrain(*words):
    return main(["pretrain", *RUN, *words])


def test_ones_own_logger_beside_the_file(tmp_path):
    name = f"{__name__}.Listening"
    words = (f"logger=[csv,{name}]", "logger_options.Listening.greeting=hi", "run_dir=one")
    assert pretrain(*words) == 0
    kinds = [told[0] for told in Listening.told]
    assert Listening.told[0] == ("made", "hi", None)
    (parameters,) = [told[1] for told in Listening.told if told[0] == "parameters"]
    assert parameters["optimizer.base_lr"] == 0.5
    assert parameters["checkpoint"] == "null"
    assert parameters["lens.kappas"] == "[10, 3, 30]"
    assert all(isinstance(value, str | int | float) for value in parameters.values())
    logged = [(told[1], told[2]) for told in Listening.told if told[0] == "metrics"]
    with (tmp_path / "one" / "metrics.csv").open() as file:
        losses = [row for row in csv.DictReader(file) if row["train_loss"]]
    shown = [(str(step), m["train_loss"]) for m, step in logged if "train_loss" in m]
    assert [step for step, _ in shown] == [row["step"] for row in losses]
    assert [loss for _, loss in shown] == pytest.approx([float(r["train_loss"]) for r in losses])
    results = results_of(tmp_path / "one")["metrics"]
    assert {f"result/{name}": value for name, value in results.items()} in [m for m, _ in logged]
    assert kinds[-1] == "end"
    assert not list((tmp_path / "one").glob("events.out.tfevents.*"))  # not asked for
    # longer, and the same run to the logger
    assert pretrain("resume=true", "epochs=3", "run_dir=one") == 0
    assert ("made", "hi", "run0") in Listening.told
    # other options, then other loggers: neither changes what is computed
    words = ("logger_options.Listening.greeting=hello", "epochs=4")
    assert pretrain("resume=true", *words, "run_dir=one") == 0
    assert ("made", "hello", "run0") in Listening.told
    Listening.told = []
    assert pretrain("resume=true", "logger=csv", "epochs=5", "run_dir=one") == 0
    assert Listening.told == []
    config = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())
    assert (config["logger"], config["logger_options"]) == ("csv", {})


def test_tensorboard_has_the_metrics(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert pretrain("logger=tensorboard", "run_dir=one") == 0
    read = events.EventAccumulator(str(tmp_path / "one"))
    read.Reload()
    assert "train_loss" in read.Tags()["scalars"]
    assert not (tmp_path / "one" / "hparams.yaml").exists()  # config.yaml has them


def test_wandb_offline_goes_on_under_its_id(tmp_path):
    wandb = pytest.importorskip("wandb")
    assert pretrain("logger=wandb", "logger_options.wandb.project=mine", "run_dir=one") == 0
    assert wandb.run is None  # ended, so that the next run of the process is another
    name = json.loads((tmp_path / "one" / "loggers.json").read_text())["wandb"]
    assert pretrain("resume=true", "epochs=3", "run_dir=one") == 0
    folders = sorted((tmp_path / "one" / "wandb").glob("offline-run-*"))
    assert [folder.name.rpartition("-")[2] for folder in folders] == [name, name]
    logged = [records(folder / f"run-{name}.wandb") for folder in folders]
    config, metrics = logged[0]
    assert json.loads(config["optimizer.base_lr"]) == 0.5
    assert json.loads(config["checkpoint"]) == "null"
    loss = [float(row["train_loss"]) for row in metrics if "train_loss" in row]
    with (tmp_path / "one" / "metrics.csv").open() as file:
        rows = [r["train_loss"] for r in csv.DictReader(file) if r["train_loss"]]
    assert loss == pytest.approx([float(value) for value in rows[: len(loss)]])
    knn = [float(row["result/knn_top1"]) for row in metrics if "result/knn_top1" in row]
    assert len(knn) == 1
    assert [float(r["result/knn_top1"]) for r in logged[1][1] if "result/knn_top1" in r] == [
        pytest.approx(results_of(tmp_path / "one")["metrics"]["knn_top1"])
    ]


def records(path):
    """Settings and rows of a run that wandb has kept on disk."""
    from wandb.proto import wandb_internal_pb2

    config, rows = {}, []
    for content in chunks(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        for update in (*record.config.update, *record.run.config.update):
            config[update.key or "/".join(update.nested_key)] = update.value_json
        if record.HasField("history"):
            items = record.history.item
            rows.append({i.key or "/".join(i.nested_key): i.value_json for i in items})
    return config, rows


def chunks(content, block=32768):
    """The records of LevelDB's log format, which wandb's files have after seven bytes of their own.

    Each part has four bytes of checksum, two of length, and its kind: 1 whole, 2 to 4 first, middle
    and last; none begins in the last six bytes of a block.
    """
    place, whole = 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        length = int.from_bytes(content[place + 4 : place + 6], "little")
        kind = content[place + 6]
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def test_mlflow_goes_on_under_its_id_in_one_store(tmp_path):
    pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    from mlflow import MlflowClient

    assert pretrain("logger=mlflow", "run_dir=runs/one") == 0
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("erssl")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "one"
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.base_lr"] == "0.5"
    assert run.data.params["checkpoint"] == "null"
    assert run.data.params["epochs"] == "2"
    results = results_of(tmp_path / "runs" / "one")["metrics"]
    assert run.data.metrics["result/knn_top1"] == pytest.approx(results["knn_top1"])
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert pretrain("resume=true", "epochs=3", "run_dir=runs/one") == 0
    (again,) = client.search_runs([experiment.experiment_id])
    assert again.info.run_id == run.info.run_id
    assert again.data.params["epochs"] == "2"  # MLflow keeps what was said first
    assert again.data.tags["resumed.epochs"] == "3"
    longer = client.get_metric_history(run.info.run_id, "train_loss")
    assert len(longer) > len(history)
    # a value of more characters than Lightning tells MLflow, and a training that fails
    text = "x" * 1000
    two = tmp_path / "runs" / "two"  # an evaluation, whose trainings have the store of all runs
    loggers = make_loggers(two / "seed1", None, "mlflow", {}, run=two)
    with pytest.raises(KeyError), reporting(loggers, {"a": {"b": text, "none": [], "c": None}}):
        raise KeyError("the training failed")
    run = client.get_run(loggers[-1].run_id)
    assert run.data.params == {"a.b": text, "a.none": "[]", "a.c": "null"}
    assert run.info.status == "FAILED"
    assert run.info.run_name == "two-seed1"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["logger=wandbb"], "did you mean wandb"),
        (["logger=no.such.Thing"], "cannot be imported"),
        (["logger=os.path.join"], "is no class of pytorch_lightning.loggers.Logger"),
        (["logger=csv", "logger_options.wandb.project=x"], "read by none of the loggers"),
        (["logger=wandb", "logger_options.wandb=x"], "is a value but holds options"),
        (["logger=wandb", "logger_options.wandb.log_model=true"], "logger=wandb does not start"),
        ([f"logger={__name__}.Refusing"], "no route to host"),
    ],
)
def test_what_cannot_be_is_one_sentence(words, sentence, tmp_path, capsys):
    if "wandb" in words[0]:
        pytest.importorskip("wandb")
    extra = ["logger_options.wandb.offline=true"] if "log_model" in words[-1] else []
    assert pretrain(*words, *extra, "run_dir=one") == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "one" / "config.yaml").exists()


def test_a_logger_that_does_not_start_leaves_no_run(tmp_path, capsys):
    assert pretrain(f"logger={__name__}.Refusing", "run_dir=one") == 2
    assert not (tmp_path / "one").exists()
    assert pretrain("logger=csv", "run_dir=one") == 0  # the folder is free


def test_wandb_that_does_not_start_names_the_way_without_a_server(tmp_path):
    pytest.importorskip("wandb")
    wrong = {"wandb": {"offline": True, "log_model": True}}
    with pytest.raises(ConfigError, match="WANDB_MODE=offline or logger_options"):
        make_loggers(tmp_path, None, "wandb", wrong)


def test_a_package_that_is_missing_names_its_extra(monkeypatch):
    from erssl.settings import loggers

    find = loggers.importlib.util.find_spec
    monkeypatch.setattr(
        loggers.importlib.util, "find_spec", lambda n: None if n == "mlflow" else find(n)
    )
    with pytest.raises(ConfigError, match=r"needs mlflow; .*pip install '\.\[mlflow\]'"):
        erssl.pretrain("simclr", logger="mlflow", quiet=True)
    assert "runs" not in os.listdir()
