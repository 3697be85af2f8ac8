"""Pretraining runs that are stopped, lose a process, an image or the disk, and go on."""

import errno
import multiprocessing
import os
import re
import shutil
import signal

import pytest
import torch

import erssl
from erssl.callbacks import Elapsed
from erssl.cli.main import main
from erssl.methods import MultiViewMethod
from erssl.run.checkpoint_files import newest_whole

from ..methods.test_resume_to_the_bit import differences, rows
from .test_pretrain import FOLDER, TINY, UNMEASURED, digit_folder, results_of

OVERRIDES = (
    "pretrain",
    *TINY,
    *UNMEASURED,
    "method=byol",
    "batch_size=16",
    "lens.every_n_steps=2",
    "trainer.limit_train_batches=4",
    "trainer.log_every_n_steps=1",
    "lens.probe_size=16",
    "trainer.limit_val_batches=1",
    "lens.on_collapse=ignore",
)
SLURM = {"JOB_ID": "17", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
SLURM |= {"JOB_NAME": "pretrain"}
LAST = "checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    assert main([*OVERRIDES, f"run_dir={run_dir}"]) == 0
    return run_dir


def assert_same_run(run_dir, whole):
    def state(path):
        checkpoint = torch.load(path / LAST, weights_only=True)
        for reading in checkpoint["callbacks"]["ERLens"]["readings"]:
            del reading["seconds"]
        assert checkpoint["callbacks"].pop("Elapsed")["seconds"] > 0
        return checkpoint

    assert differences(state(run_dir), state(whole)) == []
    assert rows(run_dir) == rows(whole)
    assert results_of(run_dir)["metrics"] == results_of(whole)["metrics"]
    lens = [(p / "lens.csv").read_text().splitlines() for p in (run_dir, whole)]
    assert [r.rsplit(",", 1)[0] for r in lens[0]] == [r.rsplit(",", 1)[0] for r in lens[1]]


def at_step(monkeypatch, step, act):
    """Do something inside of a step."""
    original, calls = MultiViewMethod.training_step, []

    def training_step(self, batch, batch_idx):
        calls.append(1)
        if len(calls) == step:
            act()
        return original(self, batch, batch_idx)

    monkeypatch.setattr(MultiViewMethod, "training_step", training_step)


@pytest.mark.parametrize(
    ("number", "step", "name"),
    [
        (signal.SIGTERM, 2, "SIGTERM"),
        (signal.SIGINT, 4, "Ctrl-C"),  # in the last step of an epoch
        (signal.SIGUSR1, 5, "SIGUSR1"),
        (signal.SIGTERM, 8, "SIGTERM"),  # in the very last step
    ],
)
def test_a_signal_stops_after_the_step_with_a_checkpoint(
    number, step, name, whole, tmp_path, monkeypatch, capsys
):
    run_dir, before = tmp_path / "run", signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: os.kill(os.getpid(), number))
        assert main([*OVERRIDES, f"run_dir={run_dir}"]) == 128 + number
    assert signal.getsignal(number) == before
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"erssl: Stopped by {name} at step {step}, with a checkpoint; go on with resume=true "
        f"run_dir={run_dir}."
    )
    assert newest_whole(run_dir / LAST).step == step
    first = torch.load(run_dir / LAST, weights_only=True)["callbacks"]["Elapsed"]["seconds"]
    seconds = Elapsed.seconds.fget
    monkeypatch.setattr(Elapsed, "seconds", property(lambda self: 1000 + seconds(self)))
    assert main(["pretrain", f"run_dir={run_dir}", "resume=true"]) == 0
    assert_same_run(run_dir, whole)
    assert results_of(run_dir)["wall_seconds"] > 1000 + first


def test_a_second_signal_does_not_wait(tmp_path, monkeypatch, capsys):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 2, twice)
    assert main([*OVERRIDES, f"run_dir={tmp_path / 'run'}"]) == 130
    assert "Stopped by Ctrl-C before the first checkpoint." in capsys.readouterr().err
    assert not (tmp_path / "run" / LAST).exists()


def test_slurm_is_asked_to_start_the_job_again_and_the_same_command_goes_on(
    whole, tmp_path, monkeypatch, capsys
):
    run_dir, asked = tmp_path / "run", tmp_path / "asked"
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {asked}\n')
    (tools / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    for name, value in SLURM.items():  # by which Lightning knows a job, whose signals are ours
        monkeypatch.setenv(f"SLURM_{name}", value)
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        assert main([*OVERRIDES, f"run_dir={run_dir}", "overwrite=true"]) == 138
    assert asked.read_text() == "requeue 17\n"
    assert not list(run_dir.glob("hpc_ckpt*"))
    assert "SLURM has put job 17 back into the queue." in capsys.readouterr().err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert main([*OVERRIDES, f"run_dir={run_dir}", "overwrite=true"]) == 0
    assert_same_run(run_dir, whole)


def test_checkpoints_inside_an_epoch_and_a_damaged_newest_one(whole, tmp_path, monkeypatch, capfd):
    run_dir = tmp_path / "run"

    def crash():
        raise RuntimeError("killed")

    overrides = (
        *OVERRIDES,
        "checkpoint_every_n_steps=2",
        "keep_checkpoints=3",
        f"run_dir={run_dir}",
    )
    with monkeypatch.context() as patch:
        at_step(patch, 8, crash)
        with pytest.raises(RuntimeError, match="killed"):
            main([*overrides])
    kept = [run_dir / "checkpoints" / f for f in ("last.ckpt", "last-1.ckpt", "last-2.ckpt")]
    assert [torch.load(f, weights_only=True)["global_step"] for f in kept] == [6, 4, 2]
    backbone = erssl.load_backbone(kept[0])
    assert backbone.report.missing == ()
    for file in kept[:2]:
        file.write_bytes(file.read_bytes()[:1000])
    capfd.readouterr()
    assert main(["pretrain", f"run_dir={run_dir}", "resume=true"]) == 0
    [warning] = [w for w in capfd.readouterr().err.splitlines() if w.startswith("Warning")]
    assert re.fullmatch(r"Warning: last\.ckpt, last-1\.ckpt .* last-2\.ckpt, step 2\.", warning)
    assert_same_run(run_dir, whole)


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(
    whole, tmp_path, monkeypatch, capsys
):
    def crash():
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        at_step(patch, 3, crash)
        with pytest.raises(RuntimeError, match="killed"):
            main([*OVERRIDES, f"run_dir={tmp_path / 'run'}"])
    assert main(["pretrain", f"run_dir={tmp_path / 'run'}", "resume=true"]) == 0
    assert "no checkpoint yet" in capsys.readouterr().out
    assert_same_run(tmp_path / "run", whole)


def test_a_run_that_ended_between_its_last_checkpoint_and_its_results(whole, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir)
    for name in ("results.json", "backbone.safetensors"):
        (run_dir / name).unlink()
    assert main(["pretrain", f"run_dir={run_dir}", "resume=true"]) == 0
    assert_same_run(run_dir, whole)


def test_a_disk_that_refuses_a_checkpoint_is_named_and_the_run_goes_on_later(
    whole, tmp_path, monkeypatch, capsys
):
    run_dir, fault = tmp_path / "run", errno.ENOSPC

    def refuse(*_):
        raise OSError(fault, os.strerror(fault))

    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda: patch.setattr("erssl.run.checkpoint_files._write_signed", refuse))
        assert main([*OVERRIDES, f"run_dir={run_dir}"]) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence == (
        f"erssl: {os.strerror(fault)}: {run_dir / LAST}; make room or see to its permissions, then "
        f"go on from the last checkpoint with resume=true run_dir={run_dir}."
    )
    assert main(["pretrain", f"run_dir={run_dir}", "resume=true"]) == 0
    assert_same_run(run_dir, whole)


def test_a_loader_process_that_dies_is_one_sentence(tmp_path, monkeypatch, capsys):
    def kill_them():
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)

    at_step(monkeypatch, 6, kill_them)
    overrides = (*OVERRIDES, "data.num_workers=1", "epochs=3", f"run_dir={tmp_path / 'run'}")
    assert main([*overrides]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("erssl: A loader process (pid")
    assert f"go on from the last checkpoint with resume=true run_dir={tmp_path / 'run'}" in error


def test_a_image_that_breaks_while_training_is_named_and_the_run_goes_on(
    tmp_path, monkeypatch, capsys
):
    train, run_dir = digit_folder(tmp_path / "train"), tmp_path / "run"
    broken = train / "0" / "3.png"
    good = broken.read_bytes()
    overrides = ["pretrain", *FOLDER, f"data.train_dir={train}", f"run_dir={run_dir}", "epochs=3"]
    overrides += ["data.views.recipe=digits", "data.num_workers=1"]
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda: broken.write_bytes(good[:60]))  # four steps an epoch
        assert main(overrides) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"erssl: the image {broken} cannot be read (")
    assert f"go on from the last checkpoint with resume=true run_dir={run_dir}." in error
    broken.write_bytes(good)
    assert main(["pretrain", f"run_dir={run_dir}", "resume=true"]) == 0
    assert newest_whole(run_dir / LAST).step == 12


def test_method_and_network_that_do_not_fit_are_said_before_images_are_decoded(tmp_path, capsys):
    train, run_dir = digit_folder(tmp_path / "train"), tmp_path / "run"
    (train / "0" / "3.png").write_bytes(b"no image")
    own = [each for each in FOLDER if not each.startswith("method.")]
    overrides = ["pretrain", *own, f"data.train_dir={train}", f"run_dir={run_dir}", "method=mae"]
    assert main(overrides) == 2
    error = capsys.readouterr().err
    assert "3.png" not in error
    assert "Masked images need a timm VisionTransformer" in error
    assert not run_dir.exists()
