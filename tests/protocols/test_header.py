"""The header of a run: counted by hand."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from erssl.data import SSLDataModule
from erssl.protocols.header import _preprocessing, header_lines
from erssl.run.checkpoint_files import Resumed
from erssl.settings.pretrain import read_sources


class _Method(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)
        self.target = nn.Linear(3, 4).requires_grad_(False)


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (20 + i, 12)).save(tmp_path / "train" / name / f"{i}.png")
    (tmp_path / "train" / "cat" / "notes.txt").touch()
    return tmp_path / "train"


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ([], "3 an epoch, 7 epochs in all; batches of 3, 1 image left out of each epoch"),
        (
            ["trainer.accumulate_grad_batches=2"],
            "2 an epoch, 7 epochs in all; batches of 3, 1 image left out of each epoch",
        ),
        (
            ["trainer.limit_train_batches=2"],
            "2 an epoch, 7 epochs in all; batches of 3, 4 images left out of each epoch",
        ),
    ],
)
def test_the_header_counts(folder, overrides, steps):
    settings, _, sources = read_sources(
        [
            "data=imagefolder",
            f"data.train_dir={folder}",
            "batch_size=3",
            "epochs=7",
            "data.num_workers=0",
            "data.image_size=16",
            "data.views.recipe=cifar",
            *overrides,
        ]
    )
    data = SSLDataModule(settings.data, 3, 0)
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")), world_size=1
    )
    resumed = Resumed(folder / "a\nb" / "checkpoints" / "last.ckpt", 1)
    lines = header_lines(settings, data, _Method(), trainer, folder / "a\nb", "", sources, resumed)
    each = int(steps.split()[0])
    assert lines == [
        "Method: mveb (the default)",
        "Training images: 10 of 20 to 24 x 12 pixels (headers of 10)",
        "Classes: 2",
        "Left out of train: 1 (extension .txt: 1)",
        "Validation images: none, so no accuracy will be measured; hold some out with "
        "data.val_fraction=0.1",
        "Trained at 16 x 16 pixels, mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225 (ImageNet's)",
        "Device: cpu",
        "Precision: 32-true",
        "Pipeline: lightly (0 loader processes)",
        f"Parameters: 26 trained, 16 of them in the backbone {settings.backbone.name}",
        f"Steps: {steps}",
        f"Run directory: {folder}/a b",
        f"Goes on from step 1 of {7 * each} (checkpoints/last.ckpt).",
    ]


def test_statistics_of_an_experiment_are_its_own(folder):
    """CIFAR-10's, of a folder of copies."""
    overrides = ["experiment=cifar10_cpu", "data=imagefolder", f"data.train_dir={folder}"]
    settings, _, sources = read_sources(overrides)
    (line,) = _preprocessing(settings, sources)
    assert line.endswith("std 0.247, 0.2435, 0.2616 (those of experiment=cifar10_cpu)")
    settings, _, sources = read_sources(["data=cifar10"])
    (line,) = _preprocessing(settings, sources)
    assert line.endswith("(those of data=cifar10)")
