import io
import itertools
import re
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

from erssl.callbacks import LiveProgress, OnlineKNN, ResumableCSVLogger
from erssl.evaluation import extract_features, knn_accuracy


class Foreign(LightningModule):
    """Somebody else's module: callbacks may use ``forward`` and what it logs."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, images):
        return self.layer(images)

    def training_step(self, batch, batch_idx):
        loss = self(batch[0]).square().mean()
        self.log_dict(
            {"train_loss": loss, "train_nats_below_uniform": -3.25, "train_alignment": 0.5}
        )
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader(n=16):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (n,), generator=generator)
    images = torch.randn(n, 4, generator=generator) + 2 * torch.eye(4)[labels]
    return DataLoader(TensorDataset(images, labels), batch_size=4)


def fit(*callbacks, logger=False, epochs=2, max_steps=-1):
    trainer = Trainer(
        max_epochs=epochs,
        max_steps=max_steps,
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    module = Foreign()
    trainer.fit(module, loader())
    return trainer, module


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_where_a_run_is(terminal):
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=80)
    fit(LiveProgress(console))
    text = output.getvalue()
    for part in (
        "epoch 2/2",
        "step 8/8",
        "loss 0.",
        "nats below uniform -3.250",
        "alignment 0.500",
    ):
        assert part in text
    assert "images/s" in text
    assert "left" in text
    if not terminal:
        assert text.count("\n") == 2  # one line an epoch


def test_online_knn_reads_the_module_as_it_is_and_before_training():
    callback = OnlineKNN(loader(64), loader(32), num_classes=3, every_n_epochs=2, k=5)
    before = callback.measure(module := Foreign())
    train, val = (extract_features(module, loader(n)) for n in (64, 32))
    assert before == knn_accuracy(train, val, 3, k=5)
    trainer, module = fit(callback)
    assert float(trainer.callback_metrics["val_knn_top1"]) == pytest.approx(
        callback.measure(module)
    )


def test_online_knn_keeps_the_last_features_of_the_runs_own_images_alone():
    own, other = (OnlineKNN(loader(64), loader(32), 3, k=5, name=name) for name in ("", "photos"))
    fit(own)
    fit(other)
    assert [len(features.labels) for features in own.last] == [64, 32]
    assert other.last is None


def test_csv_logger_keeps_complete_rows_before_the_checkpoint(tmp_path):
    (tmp_path / "metrics.csv").write_text("loss,step\n0.5,0\n0.4,4\n0.3,9\n0.2")
    logger = ResumableCSVLogger(tmp_path, resume_step=9)
    logger.log_metrics({"loss": 0.25}, step=14)
    logger.save()
    rows = (tmp_path / "metrics.csv").read_text().split()
    assert rows == ["loss,step", "0.5,0", "0.4,4", "0.25,14"]


def test_progress_shows_the_neighbours_of_knn():
    values = {"train_loss": torch.tensor(0.5), "val_knn_top1": torch.tensor(0.25)}
    trainer = SimpleNamespace(callback_metrics=values, callbacks=[OnlineKNN([], [], 10, k=123)])
    assert LiveProgress()._metrics(trainer) == ["loss 0.500", "kNN (k=123, epoch 0) 0.250"]


def test_progress_names_the_epoch_of_the_last_knn():
    output = io.StringIO()
    neighbours = OnlineKNN(loader(64), loader(32), 3, every_n_epochs=2, k=5)
    fit(neighbours, LiveProgress(Console(file=output)), epochs=3)
    first, second, third = output.getvalue().splitlines()
    assert "kNN" not in first
    assert "kNN (k=5, epoch 2)" in second
    assert "kNN (k=5, epoch 2)" in third


def test_time_left_counts_the_pixels_of_growing_views(monkeypatch):
    """A clock that counts how often it was asked; the second epoch has three times the pixels."""

    def left(pixels, **options):
        clock = map(float, itertools.count())
        monkeypatch.setattr("erssl.callbacks.progress.time.perf_counter", lambda: next(clock))
        output = io.StringIO()
        fit(LiveProgress(Console(file=output), pixels), **options)
        return [int(text) for text in re.findall(r"left (\d+) s", output.getvalue())]

    (even, end), (growing, also_end) = left(()), left([100, 300])
    assert growing == pytest.approx(3 * even, abs=1)
    assert even > 0 == end == also_end
    # four steps an epoch: of three epochs that max_steps ends after two, which cost the same
    assert left([100, 100, 900], epochs=3, max_steps=8) == left((), epochs=3, max_steps=8)
