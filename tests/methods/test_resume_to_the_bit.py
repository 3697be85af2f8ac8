"""A training that is resumed from any of its checkpoints ends as it would have ended."""

import csv
import random

import numpy as np
import pytest
import torch

from erssl.callbacks import RunCheckpoint, SeededSteps
from erssl.data import SSLDataModule, ViewOptions, default_options
from erssl.methods import OptimizerOptions, available_methods
from erssl.protocols.trainer import make_trainer
from erssl.protocols.trainer import train as fit
from erssl.run.checkpoint_files import Resumed

from .test_every_method import ADAM, MASKED, build

LARS = OptimizerOptions("lars", base_lr=0.3, warmup_epochs=0)
STEPS, EPOCHS, BATCH = 3, 2, 12
RUN = {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1}
RUN |= {"limit_train_batches": STEPS, "limit_val_batches": 1}


def disturb(seed):
    """Leave the generators somewhere else."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def train(
    name, path, resumed_from=None, keep=9, every=2, callbacks=(), views=None, workers=0, **run
):
    disturb(0 if resumed_from is None else resumed_from.step)
    method = build(name, optimizer=ADAM if name in MASKED else LARS)
    views = views or ViewOptions(name if name in MASKED else "digits")
    options = default_options("digits", num_workers=workers, views=views)
    data = SSLDataModule(options, BATCH, seed=3)
    kept = RunCheckpoint(path / "last.ckpt", every)
    callbacks = [*callbacks, SeededSteps(3), kept]
    trainer = make_trainer(RUN | run, path, EPOCHS, callbacks, resumed_from, keep)
    fit(trainer, method, data, resumed_from)
    return torch.load(path / "last.ckpt", weights_only=True)


def differences(one, other, where=""):
    """Where two checkpoints are not the same bits."""
    if isinstance(one, dict):
        if set(one) != set(other):
            return [f"{where}: {set(one) ^ set(other)}"]
        return [d for k in one for d in differences(one[k], other[k], f"{where}/{k}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{where}: {len(one)} and {len(other)}"]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{where}/{i}")]
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
    else:
        same = one == other or (one != one and other != other)
    return [] if same else [where]


def rows(path):
    with (path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_every_resumption_ends_alike(name, folder, steps, **options):
    whole = train(name, folder / "whole", **options)
    kept = {
        torch.load(file, weights_only=True)["global_step"]: file
        for file in (folder / "whole").glob("last*.ckpt")
    }
    assert set(steps) <= set(kept)
    for step in steps:
        path = folder / f"from{step}"
        path.mkdir()
        (path / "metrics.csv").write_bytes((folder / "whole" / "metrics.csv").read_bytes())
        again = train(name, path, Resumed(kept[step], step), **options)
        assert differences(whole, again) == []
        assert rows(path) == rows(folder / "whole")
    return whole


@pytest.mark.parametrize("name", available_methods())
def test_resumed_inside_an_epoch_and_between_two(name, tmp_path):
    last = assert_every_resumption_ends_alike(name, tmp_path, (2, STEPS))
    assert last["global_step"] == STEPS * EPOCHS
    assert last["callbacks"]["RunCheckpoint"]["metrics"]["train_online_cls_top1"] >= 0


@pytest.mark.parametrize(
    "run", [{"precision": "64-true"}, {"reload_dataloaders_every_n_epochs": 1}], ids=str
)
def test_resumed_with_another_setting_of_the_trainer(run, tmp_path):
    assert_every_resumption_ends_alike("mocov2", tmp_path, (2, STEPS, STEPS + 1), **run)


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_while_views_grow(workers, tmp_path):
    views = ViewOptions("digits", global_image_size=(12, 20))
    steps = (2, STEPS, STEPS + 1)
    assert_every_resumption_ends_alike("mveb", tmp_path, steps, views=views, workers=workers)
