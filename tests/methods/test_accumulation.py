"""Four batches of one step move what a method keeps as the four in one do, for every method."""

from contextlib import nullcontext

import pytest
import torch
from pytorch_lightning import Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader

from erssl.loss.state import states_of
from erssl.methods import OptimizerOptions, available_methods, get_method
from erssl.methods import base as method_base

from .test_methods import TinyBackbone
from .test_methods_distributed import MASKED, scenario

IMAGES, STEPS, PARTS = 16, 3, 4
REST = OptimizerOptions("sgd", base_lr=1e-30, warmup_epochs=0)  # weights as good as at rest
OPTIONS = {"mvib": {"estimator": "mine"}}
KEEPING = {"byol_er", "deepcluster_er", "deepclusterv2", "dino", "dino_er", "entrec", "infomin"}
KEEPING |= {"mocov2", "mvib", "simclr_er", "swav", "unigrad"}
KEEPING |= {"corinfomax", "dhel", "nnclr", "tico"}


def kept(name, parts):
    """What a method keeps before and after three steps, each of so many batches."""
    seed_everything(0)
    options = {**scenario(name), **OPTIONS.get(name, {}), "optimizer": REST}
    method = get_method(name)(IMAGES, 2, backbone=TinyBackbone(), **options)
    for module in method.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # statistics of a batch are of each batch
    with torch.no_grad():
        for key, value in method.named_parameters():
            if key.startswith("target_"):  # has a way to go
                value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    generator = torch.Generator().manual_seed(2)
    views = torch.randn(STEPS, 2, IMAGES, 3, 8, 8, generator=generator)
    batches = [
        (list(part), torch.zeros(part.shape[1], dtype=torch.long), [""] * part.shape[1])
        for step in views
        for part in step.split(IMAGES // parts, dim=1)
    ]
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        accumulate_grad_batches=parts,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, DataLoader(batches, batch_size=None))
    return before, method.state_dict(), method


@pytest.mark.parametrize("name", sorted({*available_methods()} - MASKED))
def test_accumulated_batches_move_state_as_one_batch_does(name):
    before, whole, _ = kept(name, 1)
    start, parts, method = kept(name, PARTS)
    keeping = [state for state in states_of(method) if getattr(state, "enabled", True)]
    assert bool(keeping) is (name in KEEPING)  # a queue of no rows keeps nothing
    torch.testing.assert_close(start, before, rtol=0, atol=0, equal_nan=True)
    moved = {key for key, value in whole.items() if not torch.equal(value, before[key])}
    moved -= {key for key, value in method.named_parameters() if value.requires_grad}
    targets = {key for key in before if key.startswith("target_")}
    assert bool(targets & moved) is method.has_target
    assert bool(moved - targets) is (name in KEEPING)
    for key in moved:
        if name == "mvib":  # a critic compares each row with the next one of its batch
            assert parts[key].isfinite().all()
            continue
        close = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(
            parts[key], whole[key], **close, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_state_that_moves_with_each_batch_is_seen(monkeypatch):
    _, whole, _ = kept("dino", 1)
    monkeypatch.setattr(method_base, "hold_state", lambda states: nullcontext())
    _, parts, _ = kept("dino", PARTS)
    ratio = parts["criterion.center"].norm() / whole["criterion.center"].norm()
    assert ratio > 2
