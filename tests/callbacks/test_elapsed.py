"""Seconds of a run that was stopped and went on."""

import time

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from erssl.callbacks import Elapsed


class Line(LightningModule):
    """One weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, _):
        return (self.weight * batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_parts_before_a_checkpoint_count_and_what_was_lost_after_it_does_not(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    first = Elapsed(clock[0])
    clock[0] += 30
    trainer = _trainer(first, epochs=1)
    trainer.fit(Line(), DataLoader(torch.ones(2)))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    clock[0] += 500  # killed after that, started again later
    second = Elapsed(clock[0])
    clock[0] += 5
    _trainer(second, epochs=2).fit(
        Line(), DataLoader(torch.ones(2)), ckpt_path=tmp_path / "last.ckpt"
    )
    assert second.seconds == pytest.approx(35)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["Elapsed"] == {
        "seconds": 30
    }


def _trainer(callback, epochs):
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        max_epochs=epochs,
        callbacks=[callback],
        accelerator="cpu",
        enable_checkpointing=False,
        **options,
    )
