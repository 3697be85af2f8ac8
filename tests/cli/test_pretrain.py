"""Runs by the command, from overrides to results.json."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import erssl
from erssl.callbacks import OnlineKNN
from erssl.cli.main import main
from erssl.evaluation import extract_features

TINY = (
    "backbone=timm",
    "backbone.name=test_resnet",
    "method.projection_hidden_dim=32",
    "method.projection_dim=16",
    "batch_size=64",
    "epochs=2",
    "data.num_workers=0",
    "trainer.accelerator=cpu",
    "optimizer.base_lr=0.5",
    "evaluation.every_n_epochs=1",
)
UNMEASURED = (
    "evaluation.every_n_epochs=0",
    "evaluation.untrained=false",
    "evaluation.linear=false",
    "trainer.limit_train_batches=8",
)


def run(*overrides, run_dir):
    return main(["pretrain", *TINY, *overrides, f"run_dir={run_dir}"])


def results_of(run_dir):
    return json.loads((run_dir / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "one"
    assert run("method=mveb", run_dir=run_dir) == 0
    return run_dir


def test_run_directory_holds_what_it_promises(finished):
    names = {p.name for p in finished.iterdir()}
    expected = {
        "config.yaml",
        "checkpoints",
        "backbone.safetensors",
        "metrics.csv",
        "results.json",
        "report.md",
        "curves.png",
        "environment.json",
    }
    assert expected <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if name.endswith(".partial") or name.startswith(".probe")]
    results = results_of(finished)
    assert set(results) == {
        "protocol",
        "dataset",
        "method",
        "metrics",
        "published",
        "seed",
        "config",
        "environment",
        "wall_seconds",
    }
    for metric in ("knn_top1", "linear_top1", "untrained_knn_top1", "untrained_linear_top1"):
        assert 0.2 < results["metrics"][metric] <= 1
    assert Image.open(finished / "curves.png").width > 400


def test_metrics_hold_the_curves(finished):
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = {name for row in rows for name, value in row.items() if value}
    assert {"train_loss", "train_entropy", "train_alignment", "val_knn_top1", "lr"} <= columns
    assert "train_nats_below_uniform" in columns
    knn = [float(r["val_knn_top1"]) for r in rows if r["val_knn_top1"]]
    assert len(knn) == 3  # untrained, and after each of two epochs
    metrics = results_of(finished)["metrics"]
    assert knn[0] == pytest.approx(metrics["untrained_knn_top1"])
    assert knn[-1] == pytest.approx(metrics["knn_top1"])  # the last epoch, not the best


def test_backbone_loads_and_gives_features(finished):
    backbone = erssl.load_backbone(finished)
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, backbone.feature_dim)
    assert backbone.preprocessing["image_size"] == 32
    state = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, state[f"backbone.{name}"], rtol=0, atol=0)


def test_finished_run_is_kept_unless_told_otherwise(finished, capsys):
    before = (finished / "results.json").read_bytes()
    assert run(run_dir=finished) == 2
    assert "already holds a finished run" in capsys.readouterr().err
    assert (finished / "results.json").read_bytes() == before


def test_a_killed_run_goes_on_with_its_own_settings_and_keeps_its_curve(
    tmp_path, capsys, monkeypatch
):
    run_dir = tmp_path / "run"
    read, calls = OnlineKNN.on_train_epoch_end, []

    def fail_in_the_second_epoch(self, trainer, module):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("killed")
        read(self, trainer, module)

    monkeypatch.setattr(OnlineKNN, "on_train_epoch_end", fail_in_the_second_epoch)
    with pytest.raises(RuntimeError, match="killed"):
        run("method=entrec", run_dir=run_dir)
    assert not (run_dir / "results.json").exists()
    assert run("method=entrec", run_dir=run_dir) == 2
    assert "already holds an unfinished run" in capsys.readouterr().err
    assert run("method=entrec", "method.kind=discrete", "resume=true", run_dir=run_dir) == 2
    assert "method.kind=discrete differs from continuous" in capsys.readouterr().err

    assert main(["pretrain", f"run_dir={run_dir}", "resume=true"]) == 0  # its settings are known
    results = results_of(run_dir)
    assert results["method"] == "entrec"
    assert results["config"]["method"]["projection_dim"] == 16
    with (run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(steps)
    logged = [int(row["step"]) for row in rows if row["train_loss"]]
    assert logged == list(range(4, 44, 5))  # 2 epochs of 22 steps, none twice, none missing


def test_resuming_a_finished_run_shows_its_result_and_changes_nothing(finished, capsys):
    before = (finished / "results.json").read_bytes()
    assert main(["pretrain", f"run_dir={finished}", "resume=true"]) == 0
    assert "nothing left to resume" in capsys.readouterr().out
    assert (finished / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("checkpoints/*.ckpt", b"PK\x03\x04 cut", "no readable checkpoint"),
        ("config.yaml", b"a: [", "config.yaml cannot be read"),
        ("config.yaml", b"- 1", "it is not what a run writes"),
    ],
)
def test_damaged_run_is_not_resumed(finished, tmp_path, capsys, file, content, sentence):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / "results.json").unlink()
    for damaged in run_dir.glob(file):
        damaged.write_bytes(content)
    config = (run_dir / "config.yaml").read_bytes()
    assert main(["pretrain", f"run_dir={run_dir}", "resume=true"]) == 2
    assert (run_dir / "config.yaml").read_bytes() == config  # refused before anything is written
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_results_that_no_run_wrote_are_not_shown(finished, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / "results.json").write_text('{"metrics"')
    assert main(["pretrain", f"run_dir={run_dir}", "resume=true"]) == 2
    assert "results.json is not what a run writes" in capsys.readouterr().err


def test_two_processes_share_one_run_directory(tmp_path, capsys):
    run_dir = tmp_path / "run"
    overrides = ("method=mveb", "trainer.devices=2", "trainer.strategy=ddp", f"run_dir={run_dir}")
    command = ["pretrain", *TINY, *UNMEASURED, "epochs=1", *overrides]
    line = [sys.executable, "-m", "erssl.cli.main", *command]
    subprocess.run(line, check=True, capture_output=True, cwd=tmp_path)
    results = results_of(run_dir)
    assert results["config"]["batch_size"] == 64
    before = (run_dir / "results.json").read_bytes()
    assert main(command) == 2
    assert "already holds a finished run" in capsys.readouterr().err
    assert (run_dir / "results.json").read_bytes() == before


def test_processes_started_together_must_be_told_the_folder(tmp_path, monkeypatch, capsys):
    # each would name it after its own clock, as torchrun's eight do
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", *TINY, "trainer.devices=8", "trainer.strategy=ddp"]) == 2
    assert "8 processes were started together" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_half_precision_channels_last_clipping_and_a_transformer(tmp_path):
    overrides = ("backbone.name=test_vit", "trainer.precision=bf16-mixed", "channels_last=true")
    overrides += ("trainer.gradient_clip_val=1.0", "optimizer=adamw", "optimizer.warmup_epochs=0")
    assert run(*UNMEASURED, *overrides, "optimizer.base_lr=0.001", run_dir=tmp_path / "run") == 0
    assert 0 < results_of(tmp_path / "run")["metrics"]["knn_top1"] <= 1


def test_same_seed_same_loss_curve(tmp_path):
    curves = []
    for name in ("a", "b"):
        overrides = ("method=simclr", "trainer.log_every_n_steps=1", *UNMEASURED, "epochs=1")
        assert run(*overrides, run_dir=tmp_path / name) == 0
        with (tmp_path / name / "metrics.csv").open() as file:
            curves.append([r["train_loss"] for r in csv.DictReader(file) if r["train_loss"]])
    assert len(curves[0]) == 8
    assert curves[0] == curves[1]


def test_overwrite_deletes_what_erssl_wrote_and_nothing_else(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text("method: old\n")
    (run_dir / "notes.txt").write_text("mine")
    overrides = ("method=simclr", "epochs=1", "overwrite=true", *UNMEASURED)
    assert run(*overrides, run_dir=run_dir) == 0
    assert (run_dir / "notes.txt").read_text() == "mine"
    assert "old" not in (run_dir / "config.yaml").read_text()


def digit_folder(folder, per_class=12, classes=3):
    digits = load_digits()
    for label in range(classes):
        (folder / str(label)).mkdir(parents=True)
        chosen = digits.images[digits.target == label][:per_class]
        for index, scan in enumerate(chosen):
            Image.fromarray((scan * 15).astype("uint8")).save(folder / str(label) / f"{index}.png")
    return folder


FOLDER = ("data=imagefolder", *TINY, "optimizer=sgd", "data.image_size=32", "batch_size=8")


def test_without_validation_split_there_is_no_accuracy_and_a_line_says_so(
    tmp_path, capsys, monkeypatch
):
    train = digit_folder(tmp_path / "train")
    overrides = [*FOLDER, f"data.train_dir={train}", f"run_dir={tmp_path / 'run'}", "epochs=1"]
    assert main(["pretrain", *overrides, "data.views.recipe=digits"]) == 0
    out = capsys.readouterr().out
    assert "no accuracy was measured" in out and "\nNext: see " in out
    assert "Validation images: none, so no accuracy will be measured; hold some out" in out
    monkeypatch.setenv("ERSSL_ONE_OF_SEVERAL", "1")  # as a study starts it
    assert main(["pretrain", f"run_dir={tmp_path / 'run'}", "resume=true"]) == 0
    out = capsys.readouterr().out
    assert "nothing left to resume" in out and "Next: " not in out
    assert "knn_top1" not in results_of(tmp_path / "run")["metrics"]
    assert (tmp_path / "run" / "backbone.safetensors").is_file()


def test_unreadable_files_stop_the_run_or_are_counted(tmp_path, capsys):
    train = digit_folder(tmp_path / "train")
    broken = train / "0" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    overrides = [*FOLDER, f"data.train_dir={train}", f"data.val_dir={train}", "epochs=1"]
    overrides += [f"run_dir={tmp_path / 'run'}", "data.views.recipe=digits"]
    assert main(["pretrain", *overrides]) == 2
    error = capsys.readouterr().err
    assert "3.png" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    more = ("data.on_error=skip", "evaluation.untrained=true")
    assert main(["pretrain", *overrides, *more]) == 0
    printed = capsys.readouterr().out
    checks = [f"Decoding check: 36 images of data.{key}_dir={train}.\n" for key in ("train", "val")]
    phases = [*checks, "Evaluation before", "Training for 1 epoch.", "Evaluation.\n"]
    begun = [printed.index(phase) for phase in phases]
    assert begun == sorted(begun)
    assert begun[1] < printed.index("Training images: ") < begun[2]
    for split in ("train", "val"):
        assert f"Left out of {split}: 1 (unreadable: 1)" in printed


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method=mvebb"], "did you mean mveb?"),
        (["method=simclr", "data.views.recipe=mae"], "gives 1 view of an image but method=simclr"),
        (["method=dino", "method.num_prototypes=1"], "num_prototypes must be at least 2"),
        (["method=simclr_er", "method.memory_bank_size=[64,7]"], "with d the projection_dim=128"),
        (["method=simsiam", "lens.probe_size=1"], "and at least 2"),
        (["lens.kappas=[0]"], "kappas above 0"),
        (["lens.every_n_steps=0"], "every_n_steps must be at least 1"),
        (["lens.on_collapse=shout"], "it must be warn or stop or ignore"),
        (["trainer.accelerator=cuda"], "sees no CUDA device"),
        (["batch_size=2000"], "larger than the 1437 training images"),
        (["trainer.devices=0"], "trainer.*"),
        (["trainer.accelerator=cpu", "trainer.devices=[0,1]"], "Lightning's Trainer refuses"),
        (["method.beta=-1"], "method=mveb cannot be built"),
        (["method.projection_dim=1"], "projection_dim of at least 2"),
        (["method.momentum_start=5"], "0 <= momentum_start <= momentum_end <= 1"),
        (["method=entrec", "method.memory_bank_size=[64,5]"], "projection_dim=128"),
        (["backbone.options.act_layer=foo"], "does not fit resnet10t"),
        (["data=imagefolder", "optimizer=sgd", "data.train_dir=/nowhere"], "/nowhere"),
        (
            ["method=simclr", "data.views.n_local_views=1", "data.views.local_image_size=8"],
            "takes 2",
        ),
        (["backbone=timm", "backbone.name=vit_tiny_patch16_224"], "backbone.options.img_size=32"),
    ],
)
def test_bad_input_is_one_sentence_status_two_and_no_run_directory(
    overrides, sentence, tmp_path, capsys
):
    if "trainer.accelerator=cuda" in overrides and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    run_dir = tmp_path / "run"
    status = main(
        ["pretrain", *[w for w in TINY if "num_workers" in w], *overrides, f"run_dir={run_dir}"]
    )
    error = capsys.readouterr().err
    assert status == 2
    assert sentence in error
    assert error.startswith("erssl: ")
    assert error.count("\n") == 1
    assert not run_dir.exists()


def test_unreadable_image_met_by_a_loader_process_is_one_sentence(tmp_path, capsys):
    train = digit_folder(tmp_path / "train")
    broken = train / "0" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    overrides = [*FOLDER, f"data.train_dir={train}", "data.verify=false", "epochs=1"]
    overrides += [f"run_dir={tmp_path / 'run'}", "data.views.recipe=digits", "data.num_workers=1"]
    assert main(["pretrain", *overrides]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("erssl: ")
    assert "3.png" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_run_directory_without_permission(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert run(run_dir=tmp_path / "run") == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_run_directory_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert run(run_dir=tmp_path / "file") == 2
    assert "is a file; name a folder" in capsys.readouterr().err
    assert run(run_dir=tmp_path / "file" / "run") == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_no_space_is_said_before_training(tmp_path, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("erssl.run.directory.shutil.disk_usage", lambda path: usage)
    assert run(run_dir=tmp_path / "run") == 2
    assert "make room" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_commands_help_and_wrong_commands(capsys):
    for overrides in (["--help"], ["pretrain", "--help"], ["methods", "--help"], []):
        assert main(overrides) == 0
        assert "Usage: erssl" in capsys.readouterr().out
    assert main(["pretrian"]) == 2
    assert "did you mean pretrain?" in capsys.readouterr().err
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    for name in ("mveb", "entrec", "simclr", "arXiv 2403.19078"):
        assert name in listed


def test_no_features_are_read_twice(tmp_path, monkeypatch):
    """Before training, after each epoch: of both splits once, and the curve ends in the results."""
    passes = []

    def counted(*arguments):
        passes.append(arguments)
        return extract_features(*arguments)

    for module in ("callbacks.online_knn", "protocols.pretrain_measures"):
        monkeypatch.setattr(f"erssl.{module}.extract_features", counted)
    overrides = ("method=simclr", "trainer.limit_train_batches=1", "data.image_size=16")
    assert run(*overrides, run_dir=tmp_path / "run") == 0
    assert len(passes) == 3 * 2
    with (tmp_path / "run" / "metrics.csv").open() as file:
        curve = [float(row["val_knn_top1"]) for row in csv.DictReader(file) if row["val_knn_top1"]]
    metrics = results_of(tmp_path / "run")["metrics"]
    assert len(curve) == 3
    ends = metrics["untrained_knn_top1"], metrics["knn_top1"]
    assert (curve[0], curve[-1]) == pytest.approx(ends, abs=1e-6)
