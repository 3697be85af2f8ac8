"""The batch of a small folder: by hand, and in a run that names none."""

import pytest
from PIL import Image
from rich.console import Console

from erssl.protocols.folder_defaults import fitted_batch, may_fit
from erssl.protocols.pretrain import run
from erssl.settings.pretrain import read_sources


@pytest.mark.parametrize(
    ("images", "devices", "batch"),
    [
        (5000, 1, 256),
        (1024, 1, 256),
        (1023, 1, 128),
        (100, 1, 16),
        (20, 1, 16),
        (9, 1, 9),
        (100, 2, 16),
        (9, 2, 8),
        (1, 1, 2),
    ],
)
def test_the_batch_leaves_four_steps_of_an_epoch(images, devices, batch):
    assert fitted_batch(256, images, devices) == batch


def test_only_a_default_is_fitted():
    folder = ["data=imagefolder", "data.train_dir=photos"]
    for overrides, fits in ((folder, True), ([*folder, "batch_size=256"], False), ([], False)):
        settings, _, sources = read_sources(overrides)
        assert may_fit(settings, sources) is fits


def test_a_small_folder_trains_at_the_first_try(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(9):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(tmp_path / "photos" / f"{i}.png")
    overrides = ["data=imagefolder", f"data.train_dir={tmp_path / 'photos'}", "epochs=1"]
    overrides += ["backbone=resnet10_small", "data.image_size=32", "data.views.recipe=cifar"]
    overrides += ["data.num_workers=0", "lens.probe_size=0", f"run_dir={tmp_path / 'run'}"]
    overrides += ["trainer.accelerator=cpu"]
    run(overrides, Console(quiet=True))
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert "batch_size: 9 # fits the 9 training images" in text
    assert "batches of 9, 0 images left out" in (tmp_path / "run" / "header.txt").read_text()
