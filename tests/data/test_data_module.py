"""Loaders: seeding, batches and checks before training."""

import pickle
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset

from erssl.data import DataOptions, SSLDataModule, TransformedDataset, ViewOptions, default_options
from erssl.data.draws import DrawnImages, EpochSampler, seed_worker
from erssl.data.options import PIPELINES
from erssl.errors import ConfigError, DataError

from .data_images import noise


def _digits(workers: int = 2, seed: int = 0, batch_size: int = 256, **changes) -> SSLDataModule:
    return SSLDataModule(
        default_options("digits", num_workers=workers, **changes), batch_size, seed
    )


def _epoch(loader) -> tuple[torch.Tensor, torch.Tensor]:
    """First views (N, 3, H, W) and targets (N,) of an epoch."""
    batches = [(views[0], targets) for views, targets in loader]
    return torch.cat([v for v, _ in batches]), torch.cat([t for _, t in batches])


def test_batches_are_lists_of_views() -> None:
    views = ViewOptions("digits", n_local_views=1, local_image_size=8)
    loader = _digits(workers=0, batch_size=100, views=views).train_dataloader()
    assert len(loader) == 14  # 1,437 images, the last 37 dropped
    batch, targets = next(iter(loader))
    assert [tuple(v.shape) for v in batch] == [(100, 3, 32, 32)] * 2 + [(100, 3, 8, 8)]
    assert targets.shape == (100,)
    assert targets.dtype == torch.int64


_PIPELINES = pytest.mark.parametrize("pipeline", PIPELINES)


@_PIPELINES
def test_same_seed_same_epochs_and_other_seed_other_ones(pipeline, make_folder) -> None:
    options = replace(_images(make_folder(classes=tuple("abcdefgh"), count=4)), num_workers=2)
    options = replace(options, pipeline=pipeline)
    # Different states of the global generators, which must not matter.
    runs = []
    for disturbance, seed in [(1, 0), (2, 0), (1, 1)]:
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)
        loader = SSLDataModule(options, 4, seed).train_dataloader()
        assert loader.persistent_workers == (pipeline != "device")  # which has none
        runs.append([_epoch(loader), _epoch(loader)])
    first, again, other = runs
    for (a, s), (b, t) in zip(first, again, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(s, t)
    assert not torch.equal(first[0][1], first[1][1])
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][0], other[0][0])


@pytest.mark.parametrize(
    ("pipeline", "recipe"),
    [
        *(("lightly", recipe) for recipe in ("dino", "infomin", "digits")),  # every generator
        ("fast", "dino"),
    ],
)
def test_views_follow_from_seed_epoch_and_image_whoever_draws_them(
    pipeline, recipe, make_folder
) -> None:
    options = _images(make_folder(classes=tuple("abcdefgh"), count=2))
    options = replace(options, views=ViewOptions(recipe), pipeline=pipeline)
    epochs = []
    for workers, disturbance in [(0, 1), (1, 2), (2, 3)]:
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)
        random.seed(disturbance)
        loader = SSLDataModule(replace(options, num_workers=workers), 4, 0).train_dataloader()
        loader.sampler.set_epoch(2)  # without the two before
        epochs.append(_epoch(loader))
    for views, targets in epochs[1:]:
        assert torch.equal(views, epochs[0][0])
        assert torch.equal(targets, epochs[0][1])


@_PIPELINES
def test_an_epoch_goes_on_in_its_middle_and_the_next_is_whole(pipeline, make_folder) -> None:
    options = replace(_images(make_folder(classes=tuple("abcdefgh"), count=2)), pipeline=pipeline)
    whole = SSLDataModule(options, 3, seed=0).train_dataloader()
    whole.sampler.set_epoch(3)
    first, second = _epoch(whole), _epoch(whole)
    module = SSLDataModule(options, 3, seed=0)
    module.load_state_dict({"epoch": 3, "batches": 2})
    loader = module.train_dataloader()
    assert torch.equal(_epoch(loader)[0], first[0][2 * 3 :])
    assert torch.equal(_epoch(loader)[0], second[0])


@pytest.mark.parametrize("devices", [2, 3])
def test_devices_share_the_batches_of_one(devices) -> None:
    module = _digits(workers=0, batch_size=60)
    images = DrawnImages(module.datasets.train, 0)
    one = [i for _, i in EpochSampler(images, 1, 0, seed=5, drop_last=True)]
    shares = [
        [i for _, i in EpochSampler(images, devices, rank, seed=5, drop_last=True)]
        for rank in range(devices)
    ]
    size = 60 // devices
    for start in range(0, len(shares[0]) // size):
        own = [set(share[start * size :][:size]) for share in shares]
        assert set.union(*own) == set(one[start * 60 :][:60])


class _Draws(Dataset[torch.Tensor]):
    """One draw from each generator a transform may use."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([np.random.random(), random.random(), torch.rand(()).item()])


def _draws(rank: int = 0, seed: int = 0) -> torch.Tensor:
    loader = DataLoader(
        _Draws(),
        num_workers=2,
        generator=torch.Generator().manual_seed(seed),
        worker_init_fn=partial(seed_worker, rank=rank),
    )
    return torch.cat(list(loader))


def test_workers_and_ranks_draw_differently_from_every_generator() -> None:
    """A worker's draws repeat neither another worker's, nor another rank's, nor another run's."""
    one, again, other_rank, other_seed = _draws(), _draws(), _draws(rank=1), _draws(seed=1)
    assert torch.equal(one, again)
    every = torch.cat([one, other_rank, other_seed])
    for draws in every.T:
        assert len(draws.unique()) == len(every)


def test_evaluation_is_in_order_whole_and_leaves_the_global_generators_alone() -> None:
    module = _digits(workers=2)
    before = torch.random.get_rng_state()
    images, targets = (torch.cat(part) for part in zip(*module.eval_dataloader("val"), strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert images.shape == (360, 3, 32, 32)
    np.testing.assert_array_equal(targets, module.datasets.val.targets)
    train = torch.cat([x for x, _ in module.eval_dataloader("train")])
    assert len(train) == 1437
    # Enlarged by interpolation, so the deviation falls somewhat below one.
    assert train.mean() == pytest.approx(0, abs=0.05)
    assert 0.8 < train.std() < 1.05


def test_no_validation_split(make_folder) -> None:
    module = SSLDataModule(_images(make_folder()), batch_size=2, seed=0)
    assert module.val_dataloader() == []
    with pytest.raises(DataError, match=r"no validation images here; .*data\.val_dir"):
        module.eval_dataloader("val")


def _images(train: Path) -> DataOptions:
    return default_options("imagefolder", train_dir=str(train), image_size=16, num_workers=0)


def test_batch_larger_than_the_data_is_refused_at_once(make_folder) -> None:
    with pytest.raises(DataError) as caught:
        SSLDataModule(_images(make_folder()), batch_size=7, seed=0)
    assert str(caught.value) == (
        "batch_size=7 is larger than the 6 training images; set it to 6 or less, or add images."
    )
    module = SSLDataModule(_images(make_folder("other")), batch_size=6, seed=0)
    assert len(module.train_dataloader()) == 1
    with pytest.raises(DataError, match=r"batch_size=12 on 2 devices .* set it to 6 or less"):
        module.validate(num_devices=2)


@pytest.mark.parametrize("keywords", [{"batch_size": 0, "seed": 0}, {"batch_size": 1, "seed": -1}])
def test_wrong_numbers_are_refused(keywords) -> None:
    with pytest.raises(ConfigError):
        SSLDataModule(default_options("digits"), **keywords)


@pytest.mark.parametrize("pipeline", ["lightly", "fast"])  # "device" reads all files at once
def test_a_bad_file_inside_a_worker_keeps_its_name(pipeline, make_folder) -> None:
    train = make_folder()
    (train / "cat" / "void.png").touch()
    options = replace(_images(train), num_workers=1, verify=False, pipeline=pipeline)
    loader = SSLDataModule(options, batch_size=7, seed=0).train_dataloader()
    with pytest.raises(DataError, match=r"void\.png cannot be read"):
        next(iter(loader))


def test_transformed_data_set_travels_to_other_processes() -> None:
    module = _digits()
    dataset = TransformedDataset(module.datasets.val, module.train_transform)
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy) == 360
    views, target = copy[5]
    assert len(views) == 2
    assert target == dataset[5][1]


class _Recorder(LightningModule):
    """Keeps the targets of each epoch; learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch, _):
        views, targets = batch
        assert views[0].shape[1:] == (3, 16, 16)
        assert views[0].dtype == torch.float32
        self.seen[-1] += targets.tolist()
        return self.weight * views[0].mean()

    def validation_step(self, batch, _):
        raise AssertionError("there is no validation split")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(module: SSLDataModule, path: Path, epochs: int, resume: Path | None = None) -> _Recorder:
    recorder = _Recorder()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(recorder, module, ckpt_path=None if resume is None else str(resume))
    trainer.save_checkpoint(path)
    return recorder


@_PIPELINES
def test_lightning_trains_without_validation_and_resumes_with_new_batches(
    pipeline, tmp_path: Path, make_folder
) -> None:
    options = replace(_images(make_folder(classes=tuple("abcdefgh"), count=2)), pipeline=pipeline)
    checkpoint = tmp_path / "last.ckpt"
    first = _fit(SSLDataModule(options, 8, seed=0), checkpoint, epochs=2)
    assert [len(epoch) for epoch in first.seen] == [16, 16]
    assert first.seen[0] != first.seen[1]
    again = _fit(SSLDataModule(options, 8, seed=0), checkpoint, epochs=2)
    assert again.seen == first.seen
    resumed = _fit(SSLDataModule(options, 8, seed=0), checkpoint, epochs=3, resume=checkpoint)
    assert len(resumed.seen) == 1
    assert resumed.seen[0] not in first.seen


def test_unlabelled_images_train(tmp_path: Path) -> None:
    for i in range(4):
        noise(seed=i).save(tmp_path / f"{i}.png")
    module = SSLDataModule(_images(tmp_path), batch_size=4, seed=0)
    [(views, targets)] = list(module.train_dataloader())
    assert len(views) == 2
    assert targets.tolist() == [0] * 4
