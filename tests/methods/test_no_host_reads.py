"""A training step asks the device nothing: shown on torch's meta device, which has no answers.

Whatever reads a value there, be it ``item()``, a branch, ``nonzero`` or a copy to the host, raises.
Copies to the device are looked for beside: of memory that is not pinned they wait for it, too.
What a kernel of CUDA's does inside is not seen; ``benchmarks/step.py`` counts that in a profile.
"""

import contextlib
import itertools

import pytest
import torch
from lightly.utils.lars import LARS as LightlyLARS
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from rich.console import Console
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from erssl.callbacks import LiveProgress, NonFiniteGuard, RunCheckpoint, SeededSteps
from erssl.methods import MVEB, OptimizerOptions, available_methods
from erssl.run.signals import SignalWatch

from .test_every_method import build

STEPS = 3
# lightly's NT-Xent and VICReg index by masks; DeepCluster leaves rows out that are not finite
WAITING = {"simclr", "mvib", "vicreg", "deepclusterv2", "deepcluster_er"}
META = torch.device("meta")


class AnyDevice(CPUAccelerator):
    def setup_device(self, device):
        pass


class OnMeta(SingleDeviceStrategy):
    """Leaves the module where it is, also at the end."""

    def __init__(self):
        super().__init__(META, AnyDevice())

    def model_to_device(self):
        pass

    def teardown(self):
        pass


class Done(Exception):
    """Raised after the last step, lest the epoch's means are read."""


class Copies(TorchDispatchMode):
    """Keeps what brings numbers of the host to the device."""

    def __init__(self):
        super().__init__()
        self.host_reads = []
        self.watching = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [a for a in (*args, out) if isinstance(a, torch.Tensor)]
        if "copy" in str(function) and len({t.device.type for t in tensors}) > 1:
            self.keep(function)
        return out

    def keep(self, function):
        if self.watching:  # not in the first step, in which metrics are made
            self.host_reads.append(str(function))


class Made(TorchFunctionMode):
    """Tells of tensors that are made of Python's numbers, which no operation is seen for."""

    def __init__(self, copies):
        super().__init__()
        self.copies = copies

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = function in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        if made and out.device != torch.device("cpu"):
            self.copies.keep(function)
        return out


class Endless:
    """One batch again and again; a length would be summed over processes on the device."""

    def __init__(self, batch):
        self.batch = batch

    def __iter__(self):
        return itertools.repeat(self.batch)


class Watch(Callback):
    def __init__(self, copies):
        self.copies = copies

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.copies.watching = batch_idx > 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == STEPS:
            raise Done


def take_steps(name, folder, monkeypatch, optimizer=None, **options):
    """Copies from the host in the steps of a method, with all that ``erssl pretrain`` calls."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    copies = Copies()
    with META:
        method = build(name, optimizer=optimizer, **options)
        views = [torch.randn(8, 3, 32, 32) for _ in range(2)]
        batch = views, torch.randint(2, (8,)), ["a.jpg"] * 8
    guard = NonFiniteGuard("stop", folder)
    kept = RunCheckpoint(folder / "last.ckpt", every_n_steps=100, signals=SignalWatch(folder))
    progress = LiveProgress(Console(file=(folder / "shown").open("w"), force_terminal=True))
    trainer = Trainer(
        max_steps=10,
        strategy=OnMeta(),
        logger=False,
        enable_model_summary=False,
        log_every_n_steps=100,
        callbacks=[SeededSteps(0), guard, progress, kept, Watch(copies)],
    )
    trainer._teardown = lambda: None  # brings metrics to the host
    with copies, Made(copies), pytest.raises(Done):
        trainer.fit(method, Endless(batch))
    return copies.host_reads, trainer


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simclr_er", {"estimator": "koleo"}),
        ("byol_er", {"estimator": "koleo"}),
        ("dino", {"koleo_weight": 0.1}),
        ("dino_er", {"koleo_weight": 0.1}),
    ],
)
def test_nearest_neighbours_wait_for_nothing_either(name, options, tmp_path, monkeypatch):
    host_reads, _ = take_steps(name, tmp_path, monkeypatch, **options)
    assert host_reads == []


@pytest.mark.parametrize("name", sorted({*available_methods()} - WAITING))
def test_no_step_waits_for_the_device(name, tmp_path, monkeypatch):
    host_reads, trainer = take_steps(name, tmp_path, monkeypatch)
    assert host_reads == []
    assert trainer.global_step == STEPS
    assert "epoch 1" in (tmp_path / "shown").read_text()


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw", "muon"])
def test_no_optimizer_waits_for_the_device(name, tmp_path, monkeypatch):
    options = OptimizerOptions(name, weight_decay=1e-4, warmup_epochs=0)
    assert take_steps("mveb", tmp_path, monkeypatch, options)[0] == []


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (MVEB, lambda self: self.optimizers().param_groups[0]["params"][0].sum().item()),
        (MVEB, lambda self: self.log("lr", self.optimizers().param_groups[0]["lr"])),
        (MVEB, lambda self: next(self.parameters())[next(self.parameters()) > 0]),
    ],
)
def test_what_waits_is_seen(where, what, tmp_path, monkeypatch):
    original = where.multi_view_step

    def step(self, views):
        what(self)
        return original(self, views)

    monkeypatch.setattr(where, "multi_view_step", step)
    try:
        host_reads, _ = take_steps("mveb", tmp_path, monkeypatch)
    except (RuntimeError, NotImplementedError) as error:
        host_reads = [str(error)]
    assert host_reads


def test_lightlys_lars_waits(tmp_path, monkeypatch):
    monkeypatch.setattr("erssl.methods.optimizer.LARS", LightlyLARS)
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        take_steps("mveb", tmp_path, monkeypatch)
