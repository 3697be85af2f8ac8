"""Views whose size depends on the epoch: `data.views.global_image_size` of several sides."""

from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from erssl.data import SSLDataModule, ViewOptions, default_options
from erssl.errors import ConfigError
from erssl.protocols import pretrain
from erssl.protocols.header import _preprocessing
from erssl.protocols.step_time import _seconds_of_step
from erssl.settings.pretrain import read_settings

PIPELINES = ["lightly", "fast", "device"]


def module(pipeline, sides, workers=0, seed=0):
    options = default_options(
        "digits",
        image_size=32,
        pipeline=pipeline,
        num_workers=workers,
        views=ViewOptions("cifar", global_image_size=sides),
    )
    return SSLDataModule(options, 64, seed=seed)


def attach(data, epoch, epochs):
    """What a loader and a batch ask of a trainer."""
    data.trainer = SimpleNamespace(
        world_size=1,
        global_rank=0,
        current_epoch=epoch,
        max_epochs=epochs,
        precision_plugin=SimpleNamespace(convert_input=lambda views: views),
    )


def views_of(data, epoch, epochs):
    attach(data, epoch, epochs)
    return data.on_after_batch_transfer(next(iter(data.train_dataloader())))[0]


@pytest.mark.parametrize(
    ("count", "epochs", "parts"),
    [
        (1, 3, [0, 0, 0]),
        (3, 3, [0, 1, 2]),
        (3, 7, [0, 0, 1, 1, 2, 2, 2]),
        (2, 1, [1]),
        (4, 2, [1, 3]),
        (3, 1, [2]),
    ],
)
def test_parts_share_the_epochs_in_order(count, epochs, parts):
    options = ViewOptions("cifar", global_image_size=tuple(range(8, 8 + count)))
    assert [options.part_at(epoch, epochs) for epoch in range(epochs)] == parts
    assert options.part_at(epochs + 5, epochs) == count - 1
    assert [part.global_image_size for part in options.parts()] == list(range(8, 8 + count))


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("workers", [0, 2])
def test_views_have_the_size_of_their_epoch_and_are_those_of_that_size_alone(pipeline, workers):
    growing = module(pipeline, [12, 12, 20], workers)
    for epoch, side in enumerate((12, 12, 12, 12, 20, 20)):
        views = views_of(growing, epoch, 6)
        alone = views_of(module(pipeline, side, workers), epoch, 6)
        assert [view.shape[-1] for view in views] == [side, side]
        for view, other in zip(views, alone, strict=True):
            assert torch.equal(view, other)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_without_a_trainer_views_have_the_last_size(pipeline):
    data = module(pipeline, [12, 20])
    views = data.on_after_batch_transfer(next(iter(data.train_dataloader())))[0]
    assert [view.shape[-1] for view in views] == [20, 20]
    assert [view.shape[-1] for view in data.probe_views(8)] == [20, 20]


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ([], r"global_image_size=\[\] names no size"),
        ([16, 0], "global_image_size=0"),
        ([16, 2.5], "global_image_size=2.5"),
        (["16"], "global_image_size=16"),
        ("16", "global_image_size=16"),
    ],
)
def test_sides_that_are_none_are_refused(sides, said):
    with pytest.raises(ConfigError, match=said):
        ViewOptions("cifar", global_image_size=sides)


def test_local_views_fit_into_the_smallest_global_ones():
    views = ViewOptions("cifar", 2, 16, global_image_size=[12, 20])
    with pytest.raises(ConfigError, match=r"local_image_size=16 is larger .*global_image_size=12"):
        SSLDataModule(default_options("digits", image_size=32, views=views), 64, seed=0)


def test_memory_and_sizes_are_those_of_all_parts():
    options = ViewOptions("cifar", 2, 8, global_image_size=[16, 24, 12])
    assert options.sides(32) == [24, 24, 8, 8]
    assert options.every_side(32) == [16, 8, 24, 12]


def test_the_time_of_a_step_is_the_mean_over_the_parts(monkeypatch):
    settings, _ = read_settings(
        ["data=digits", "data.image_size=32", "data.views.global_image_size=[12,12,20]"]
    )
    assert settings.data.views.global_image_size == (12, 12, 20)
    monkeypatch.setattr("erssl.protocols.step_time.build_method", lambda *_: torch.nn.Identity())
    monkeypatch.setattr("erssl.protocols.step_time._seconds_at", lambda sides, *_: float(sides[0]))
    assert _seconds_of_step(settings) == pytest.approx((12 + 12 + 20) / 3)


def test_a_run_says_its_sizes_and_trains_at_each(tmp_path):
    overrides = [
        "method=simclr_er",
        "data=digits",
        "data.image_size=32",
        "data.views.global_image_size=[8,16,16]",
        "data.pipeline=device",
        "backbone=timm",
        "backbone.name=test_resnet",
        "method.projection_hidden_dim=32",
        "method.projection_dim=16",
        "batch_size=256",
        "epochs=3",
        "evaluation.untrained=false",
        "evaluation.linear=false",
        "lens.probe_size=32",
    ]
    settings, _ = read_settings(overrides)
    (line,) = _preprocessing(settings, {})
    assert line.startswith(
        "Trained at 8 x 8 pixels for 1 epoch, then 16 x 16 pixels for 2 epochs, and evaluated at "
        "32 x 32 pixels,"
    )
    assert settings.data.views.pixels(32, 3) == [2 * 8**2, 2 * 16**2, 2 * 16**2]
    (short,) = _preprocessing(read_settings([*overrides, "epochs=1"])[0], {})
    assert short.startswith("Trained at 16 x 16 pixels and evaluated at 32 x 32 pixels,")
    result = pretrain.run([*overrides, f"run_dir={tmp_path / 'run'}"], Console(quiet=True))
    assert 0.3 < result.metrics["knn_top1"] <= 1
    assert line in (tmp_path / "run" / "header.txt").read_text()
