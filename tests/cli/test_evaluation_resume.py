"""Evaluations that are stopped, resumed, refused a folder, or run by several processes."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import functional as F

from erssl.cli.main import main
from erssl.data import default_options, labels_of, load_datasets, stratified_subset
from erssl.errors import ConfigError
from erssl.evaluation.classifier import ClassifierTraining
from erssl.models import build_backbone, named_architecture, save_backbone

from .conftest import CACHED, COMMANDS, QUICK, evaluate
from .test_pretrain import digit_folder, results_of

SEMI = ("semi", *QUICK, "fraction=0.05", "backbone_lr=0.01", "seeds=2")


def interrupt_at(monkeypatch, call, error):
    """Let the validation fail when it comes for the ``call``-th time."""
    ended, calls = ClassifierTraining.on_validation_epoch_end, []

    def fail(self):
        calls.append(1)
        if len(calls) == call:
            raise error
        return ended(self)

    monkeypatch.setattr(ClassifierTraining, "on_validation_epoch_end", fail)
    return calls


def names_in(folder):
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    return {name for name in names if "tfevents" not in name}


def test_a_killed_evaluation_goes_on_and_leaves_finished_seeds_alone(
    tiny_run, tmp_path, monkeypatch, capsys
):
    run_dir, overrides = tmp_path / "run", (*SEMI, f"checkpoint={tiny_run}")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4, RuntimeError("killed"))  # in the second epoch of the second seed
        with pytest.raises(RuntimeError, match="killed"):
            evaluate(run_dir, *overrides)
    assert not (run_dir / "results.json").exists()
    finished = {p.name: p.stat().st_mtime_ns for p in (run_dir / "seed0").glob("*.safetensors")}
    assert evaluate(run_dir, *overrides) == 2
    assert "continue it with resume=true" in capsys.readouterr().err
    assert evaluate(run_dir, *overrides, "resume=true", "epochs=3") == 2
    assert "epochs=3 differs from 2" in capsys.readouterr().err
    assert evaluate(run_dir, *overrides, "resume=true", "data.image_size=32") == 2
    assert "data.image_size=32 differs from 28" in capsys.readouterr().err

    calls = interrupt_at(monkeypatch, 0, None)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # the same command, as SLURM starts it again
    assert evaluate(run_dir, *overrides) == 0
    assert len(calls) == 1  # the epoch that was missing
    assert finished == {
        p.name: p.stat().st_mtime_ns for p in (run_dir / "seed0").glob("*.safetensors")
    }
    assert evaluate(tmp_path / "whole", *overrides) == 0
    assert names_in(run_dir) == names_in(tmp_path / "whole")
    one, other = (results_of(p)["metrics"] for p in (run_dir, tmp_path / "whole"))
    assert set(one) == set(other)
    assert one["top1_seed0"] == other["top1_seed0"]
    history = json.loads((run_dir / "seed1" / "seed.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [0, 1]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("command", ["linear", "finetune"])
def test_a_resumed_training_is_the_uninterrupted_one_to_the_bit(
    command, workers, tiny_run, tmp_path, monkeypatch
):
    overrides = [command, *QUICK, "epochs=3", "batch_size=512", f"checkpoint={tiny_run}"]
    overrides.append(f"data.num_workers={workers}")
    names = ["head.safetensors"]
    if command == "finetune":
        overrides.append("backbone_lr=0.01")
        names.append("backbone.safetensors")
    forward = ClassifierTraining.forward

    def with_dropout(self, images):
        return F.dropout(forward(self, images), 0.2, self.training)

    monkeypatch.setattr(ClassifierTraining, "forward", with_dropout)
    assert evaluate(tmp_path / "whole", *overrides) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, RuntimeError("killed"))
        with pytest.raises(RuntimeError, match="killed"):
            evaluate(tmp_path / "run", *overrides)
    assert evaluate(tmp_path / "run", *overrides, "resume=true") == 0
    for name in names:
        one, other = (load_file(tmp_path / p / "seed0" / name) for p in ("whole", "run"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    histories = [(tmp_path / p / "seed0" / "seed.json").read_text() for p in ("whole", "run")]
    assert histories[0] == histories[1]


def test_an_evaluation_that_is_killed_after_its_last_epoch_gives_the_same(
    evaluated, tiny_run, tmp_path
):
    run_dir = tmp_path / "run"
    shutil.copytree(evaluated / "finetune", run_dir)
    before = json.loads((run_dir / "seed0" / "seed.json").read_text())
    for name in ("seed.json", "predicted.safetensors"):
        (run_dir / "seed0" / name).unlink()
    overrides = (*COMMANDS["finetune"], f"checkpoint={tiny_run}", "resume=true")
    assert evaluate(run_dir, *overrides) == 0
    assert json.loads((run_dir / "seed0" / "seed.json").read_text()) == before


def test_features_are_not_trained_on_again_by_a_seed_that_is_finished(
    evaluated, tiny_run, tmp_path
):
    run_dir = tmp_path / "run"
    shutil.copytree(evaluated / "cached", run_dir)
    marked = run_dir / "seed1" / "seed.json"
    content = json.loads(marked.read_text())
    content["metrics"]["top1"] = 0.125
    marked.write_text(json.dumps(content))
    overrides = (*COMMANDS["cached"], f"checkpoint={tiny_run}", "resume=true")
    assert evaluate(run_dir, *overrides) == 0
    assert results_of(run_dir)["metrics"]["top1_seed1"] == 0.125


def test_ctrl_c_leaves_no_results_and_says_how_to_go_on(tiny_run, tmp_path, monkeypatch, capsys):
    before, run_dir = signal.getsignal(signal.SIGINT), tmp_path / "run"
    overrides = (*SEMI, f"checkpoint={tiny_run}")
    try:
        with monkeypatch.context() as patch:
            interrupt_at(patch, 1, KeyboardInterrupt())
            assert evaluate(run_dir, *overrides) == 130
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"erssl: Stopped by Ctrl-C; go on with resume=true run_dir={run_dir}."
    assert not (run_dir / "results.json").exists()
    assert not (run_dir / "seed0" / "seed.json").exists()
    assert evaluate(run_dir, *overrides, "resume=true") == 0


def test_ctrl_c_between_features_says_how_to_go_on(tiny_run, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("erssl.protocols.linear.train_linear", stop)
    assert evaluate(tmp_path / "run", "linear", *CACHED, f"checkpoint={tiny_run}") == 130
    assert f"resume=true run_dir={tmp_path / 'run'}" in capsys.readouterr().err
    monkeypatch.setattr("erssl.protocols.linear.Evaluation", stop)  # before there is a folder
    assert evaluate(tmp_path / "other", "linear", *CACHED, f"checkpoint={tiny_run}") == 130
    assert capsys.readouterr().err == "erssl: Stopped by Ctrl-C.\n"


@pytest.mark.parametrize(
    "limit", ["max_steps=1", "max_time=00:00:00:01", "min_steps=90", "limit_train_batches=1"]
)
def test_a_limit_that_would_cut_an_epoch_is_refused(limit, tiny_run, tmp_path, capsys):
    overrides = (*SEMI[:-1], f"checkpoint={tiny_run}")
    assert evaluate(tmp_path / "run", *overrides, f"trainer.{limit}") == 2
    assert "an evaluation is all of its epochs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("batches", "images"), [(1, 64), (4, 256), (100, 1437)])
def test_rates_are_those_of_the_images_of_a_step(batches, images, tiny_run, tmp_path, monkeypatch):
    seen, configure = [], ClassifierTraining.configure_optimizers

    def watched(self):
        optimizers = configure(self)
        seen.append(optimizers[0][0].param_groups[0]["lr"])
        raise ConfigError("The rate is known, so that no step is needed.")

    monkeypatch.setattr(ClassifierTraining, "configure_optimizers", watched)
    overrides = ("linear", *QUICK, "epochs=1", "lr_per_256=true", f"checkpoint={tiny_run}")
    overrides += (f"trainer.accumulate_grad_batches={batches}",)
    assert evaluate(tmp_path / "run", *overrides) == 2
    assert seen == [pytest.approx(0.05 * images / 256)]


def test_the_last_epoch_is_measured_however_rarely_it_is_validated(tiny_run, tmp_path):
    often, rarely = tmp_path / "often", tmp_path / "rarely"
    overrides = (*SEMI[:-1], "epochs=3", f"checkpoint={tiny_run}")
    assert evaluate(often, *overrides) == 0
    assert evaluate(rarely, *overrides, "trainer.check_val_every_n_epoch=2") == 0
    every, some = (
        json.loads((p / "seed0" / "seed.json").read_text())["history"] for p in (often, rarely)
    )
    assert some == every[1:]


def test_a_seed_of_other_weights_is_not_taken_for_one_of_these(tmp_path, capsys):
    options, file = named_architecture("test_resnet"), tmp_path / "mine.safetensors"
    own = {"image_size": 16, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    overrides = (*CACHED, "data=digits", f"checkpoint={file}")
    for seed, status in ((0, 0), (1, 2)):
        torch.manual_seed(seed)
        save_backbone(build_backbone(options), file, options, own)
        resume = f"resume={seed == 1}".lower()
        assert evaluate(tmp_path / "run", "linear", *overrides, resume) == status
    error = capsys.readouterr().err
    assert "The weights of checkpoint= are not what they were" in error
    assert error.count("\n") == 1


def test_a_seed_of_another_list_is_not_taken_for_one_of_this(tiny_run, tmp_path, capsys):
    overrides = (
        "semi",
        *QUICK,
        "epochs=1",
        f"checkpoint={tiny_run}",
        f"fraction={tmp_path / 'a.txt'}",
    )
    labels = labels_of(load_datasets(default_options("digits")).train)
    for seed, status in ((0, 0), (1, 2)):
        chosen = stratified_subset(labels, 0.05, seed)
        (tmp_path / "a.txt").write_text("\n".join(map(str, chosen)))
        resume = f"resume={seed == 1}".lower()
        assert evaluate(tmp_path / "run", *overrides, resume) == status
    error = capsys.readouterr().err.splitlines()[-1]
    assert "The images of fraction= are not what they were" in error


def test_a_seed_of_other_images_is_not_taken_for_one_of_these(tmp_path, capsys):
    train = digit_folder(tmp_path / "train")
    overrides = ["checkpoint=random:test_resnet", "data=imagefolder", f"data.train_dir={train}"]
    overrides += [f"data.val_dir={train}", "data.image_size=16", *CACHED]
    assert evaluate(tmp_path / "run", "linear", *overrides) == 0
    next(train.glob("*/*")).unlink()
    assert evaluate(tmp_path / "run", "linear", *overrides, "resume=true") == 2
    assert "The training images are not what they were" in capsys.readouterr().err


def test_seeds_may_be_added_to_an_evaluation_but_not_taken_away(
    evaluated, tiny_run, tmp_path, capsys
):
    few = (*COMMANDS["cached"], f"checkpoint={tiny_run}", "seeds=1")
    run_dir = tmp_path / "run"
    assert evaluate(run_dir, *few) == 0
    kept = (run_dir / "seed0" / "seed.json").stat().st_mtime_ns
    assert evaluate(run_dir, *few[:-1], "resume=true") == 0
    assert (run_dir / "seed0" / "seed.json").stat().st_mtime_ns == kept
    assert results_of(run_dir)["metrics"] == results_of(evaluated / "cached")["metrics"]
    assert evaluate(run_dir, *few, "resume=true") == 2
    assert "seeds=1 differs from 3" in capsys.readouterr().err


def test_an_evaluation_of_the_first_release_is_resumed(evaluated, tiny_run, tmp_path):
    """Its config.yaml calls the images pictures."""
    run_dir = tmp_path / "run"
    shutil.copytree(evaluated / "cached", run_dir)
    file = run_dir / "config.yaml"
    lines = file.read_text().replace("_images:", "_pictures:").splitlines(keepends=True)
    later = (
        "channels:",
        "exif:",
        "features_precision:",
        "features_k:",
        "crop_pct:",
        "val_fraction:",
    )
    lines = [line for line in lines if not line.strip().startswith(later)]
    file.write_text("".join(lines))
    assert "training_pictures: " in file.read_text() and "exif" not in file.read_text()
    (run_dir / "results.json").unlink()
    kept = (run_dir / "seed0" / "seed.json").stat().st_mtime_ns
    assert evaluate(run_dir, *COMMANDS["cached"], f"checkpoint={tiny_run}", "resume=true") == 0
    assert (run_dir / "seed0" / "seed.json").stat().st_mtime_ns == kept
    assert results_of(run_dir)["metrics"] == results_of(evaluated / "cached")["metrics"]


@pytest.mark.parametrize("content", [b"a: [", b"- 1"])
def test_settings_that_no_evaluation_wrote_are_not_resumed(
    evaluated, tiny_run, tmp_path, capsys, content
):
    run_dir = tmp_path / "run"
    shutil.copytree(evaluated / "cached", run_dir)
    (run_dir / "config.yaml").write_bytes(content)
    overrides = (*COMMANDS["cached"], f"checkpoint={tiny_run}", "resume=true")
    assert evaluate(run_dir, *overrides) == 2
    assert "config.yaml cannot be read; put a copy of it back" in capsys.readouterr().err
    assert (run_dir / "config.yaml").read_bytes() == content


def test_a_damaged_seed_is_one_sentence(evaluated, tiny_run, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(evaluated / "cached", run_dir)
    (run_dir / "seed2" / "predicted.safetensors").write_bytes(b"cut")
    overrides = (*COMMANDS["cached"], f"checkpoint={tiny_run}", "resume=true")
    assert evaluate(run_dir, *overrides) == 2
    assert (
        "seed2 is not what a training leaves; delete that folder alone" in capsys.readouterr().err
    )


def test_an_existing_evaluation_is_kept_and_no_way_is_named_that_there_is_not(
    evaluated, tiny_run, capsys
):
    before = (evaluated / "knn" / "results.json").read_bytes()
    assert evaluate(evaluated / "knn", *COMMANDS["knn"], f"checkpoint={tiny_run}") == 2
    error = capsys.readouterr().err
    assert "already holds a finished run; delete it with overwrite=true" in error
    assert "resume" not in error  # which erssl knn does not have
    assert (evaluated / "knn" / "results.json").read_bytes() == before


def test_overwrite_deletes_what_an_evaluation_wrote_and_nothing_else(evaluated, tiny_run, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(evaluated / "semi", run_dir)
    (run_dir / "notes.txt").write_text("mine")
    (run_dir / "seed1-notes").mkdir()
    (run_dir / "seed1-notes" / "a.txt").write_text("mine")
    overrides = ("knn", "data.num_workers=0", f"checkpoint={tiny_run}", "overwrite=true")
    assert evaluate(run_dir, *overrides) == 0
    left = {p.name for p in run_dir.iterdir()}
    assert left == {
        "notes.txt",
        "seed1-notes",
        "config.yaml",
        "environment.json",
        "report.md",
        "results.json",
    }
    assert (run_dir / "seed1-notes" / "a.txt").read_text() == "mine"


def test_a_pretraining_is_never_overwritten_by_its_own_evaluation(tiny_run, capsys):
    before = names_in(tiny_run)
    overrides = ("knn", "data.num_workers=0", f"checkpoint={tiny_run}", "overwrite=true")
    assert evaluate(tiny_run, *overrides) == 2
    assert "holds a run of erssl pretrain; name a folder of its own" in capsys.readouterr().err
    assert names_in(tiny_run) == before


def test_the_checkpoints_of_a_run_are_no_place_for_its_evaluation(tiny_run, capsys):
    before = names_in(tiny_run)
    overrides = ("knn", "data.num_workers=0", f"checkpoint={tiny_run}")
    assert evaluate(tiny_run / "checkpoints", *overrides) == 2
    assert "is the folder of checkpoints of a run" in capsys.readouterr().err
    assert names_in(tiny_run) == before


FULL = errno.ENOSPC, "No space left on device"


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("erssl.run.checkpoint_files._write_signed", OSError(*FULL)),
        (
            "erssl.protocols.classifier_training.save_file",
            SafetensorError("I/O error: (os error 28)"),
        ),
    ],
)
def test_a_full_disk_is_named_by_the_run_and_not_by_a_temporary_file(
    place, error, tiny_run, tmp_path, monkeypatch, capsys
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(place, fail)
    assert evaluate(tmp_path / "run", *SEMI, "epochs=1", f"checkpoint={tiny_run}") == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith(f"erssl: No space left on device: {tmp_path}/run")


def test_without_run_dir_the_folder_is_named_after_what_was_done(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["knn", f"checkpoint={tiny_run}", "data.num_workers=0"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("knn-simclr-digits-2")


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_processes_that_were_started_together_need_a_folder_in_common(
    variable, tiny_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "2")
    assert main(["knn", f"checkpoint={tiny_run}", "data.num_workers=0"]) == 2
    error = capsys.readouterr().err
    assert "2 processes were started together" in error
    assert "run_dir=<folder>" in error
    assert not (tmp_path / "runs").exists()


def test_processes_that_the_trainer_does_not_know_of_are_refused(
    tiny_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    overrides = ("finetune", *QUICK, f"checkpoint={tiny_run}", "trainer.devices=1")
    assert evaluate(tmp_path / "run", *overrides) == 2
    assert "2 processes were started but the trainer has 1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["cached", "augmented"])
def test_processes_that_torchrun_starts_leave_one_result(mode, tiny_run, tmp_path):
    overrides = [
        "linear",
        *QUICK,
        f"mode={mode}",
        f"checkpoint={tiny_run}",
        f"run_dir={tmp_path}/run",
    ]
    overrides += ["trainer.devices=2", "trainer.strategy=ddp", f"cache_dir={tmp_path}/cache"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-port=29581", "-m", "erssl.cli.main", *overrides]
    done = subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, text=True)
    assert done.stdout.count("Results: ") == 1
    assert results_of(tmp_path / "run")["metrics"]["top1"] > 0


@pytest.mark.slow
def test_two_processes_train_one_classifier(tiny_run, tmp_path):
    # The batch of 256 holds all images: each process must have its part of them.
    overrides = [*SEMI, f"checkpoint={tiny_run}", f"run_dir={tmp_path / 'run'}", "batch_size=256"]
    command = [sys.executable, "-m", "erssl.cli.main", *overrides]
    subprocess.run(
        [*command, "trainer.devices=2", "trainer.strategy=ddp"],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    results = results_of(tmp_path / "run")
    assert {"top1_seed0", "top1_seed1"} <= set(results["metrics"])
    assert {p.name for p in tmp_path.iterdir()} == {"run"}
    before = load_file(tiny_run / "backbone.safetensors")["bn1.num_batches_tracked"]
    after = load_file(tmp_path / "run" / "seed1" / "backbone.safetensors")
    assert int(after["bn1.num_batches_tracked"] - before) == 2  # a step an epoch


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("semi", signal.SIGTERM),
        ("semi", signal.SIGINT),
        ("augmented", signal.SIGTERM),
        ("finetune", signal.SIGTERM),
    ],
)
def test_a_signal_inside_an_epoch_leaves_a_checkpoint_and_the_same_end(
    command, number, tiny_run, evaluated, tmp_path, monkeypatch, capsys
):
    step, calls, before = ClassifierTraining.training_step, [], signal.getsignal(number)

    def stop(self, batch, batch_idx):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return step(self, batch, batch_idx)

    overrides = (*COMMANDS[command], f"checkpoint={tiny_run}")
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(ClassifierTraining, "training_step", stop)
        assert evaluate(run_dir, *overrides) == 128 + number
    assert signal.getsignal(number) == before
    assert "at step 2, with a checkpoint; go on with resume=true" in capsys.readouterr().err
    assert not (run_dir / "results.json").exists()
    assert evaluate(run_dir, *overrides, "resume=true") == 0
    names = {path.name for path in (run_dir / "seed0").glob("*.safetensors")}
    assert len(names) == 3 - (command == "augmented")  # which leaves the backbone as it is
    for name in names:
        one, other = (load_file(p / "seed0" / name) for p in (run_dir, evaluated / command))
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert results_of(run_dir)["metrics"] == results_of(evaluated / command)["metrics"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_while_settings_are_composed_is_a_sentence(number, monkeypatch, capsys):
    def interrupted(*_):
        try:
            os.kill(os.getpid(), number)
        except BaseException as end:  # as an import in C makes of it
            raise ImportError("failed to import") from end

    monkeypatch.setattr("erssl.protocols.knn.read_protocol", interrupted)
    assert main(["knn", "checkpoint=random:resnet18"]) == 128 + number
    assert capsys.readouterr().err.startswith("erssl: Stopped by ")
