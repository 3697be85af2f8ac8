"""Long-tailed training images: counts against the literature's, and what stays whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from erssl.data import SSLDataModule, default_options, labels_of
from erssl.data.imbalance import long_tailed, long_tailed_counts
from erssl.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("factor", "counts"),
    [
        (1, [5000] * 10),
        (10, [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]),
        (100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
    ],
)
def test_counts_of_cifar10_are_those_of_the_long_tailed_benchmark(factor, counts):
    """Its code: int(img_max * imb_factor ** (class / (classes - 1))), 20,431 and 12,406 images."""
    assert long_tailed_counts([5000] * 10, factor) == counts


def test_counts_of_unequal_and_empty_classes():
    assert long_tailed_counts([9, 0, 8, 3], 8) == [9, 0, 2, 1]
    assert long_tailed_counts([7], 100) == [7]


def module(factor, seed=0, **options):
    made = default_options("digits", imbalance=factor, **options)
    return SSLDataModule(made, 16, seed)


@pytest.mark.parametrize("pipeline", ["lightly", "device"])
def test_training_images_are_some_of_each_class_and_the_bank_stays_whole(pipeline):
    whole = module(1.0).datasets
    data = module(10.0, pipeline=pipeline, num_workers=0)
    available = np.bincount(labels_of(whole.train))
    counts = np.bincount(labels_of(data.datasets.train)).tolist()
    assert counts == [int(n * 10 ** (-c / 9)) for c, n in enumerate(available)]
    assert len(data.datasets.evaluated().train) == len(whole.train)
    assert data.measurable
    assert data.training_classes == 10
    assert len(data.val_dataloader().dataset) == len(whole.val)
    batch = next(iter(data.train_dataloader()))
    views, _ = data.on_after_batch_transfer(batch)
    assert views[0].shape[0] == 16
    every = {image.tobytes() for image in whole.train.pixels}
    assert {image.tobytes() for image in data.datasets.train.pixels} < every


def test_the_choice_follows_from_the_seed():
    chosen = [module(5.0, seed).datasets.train.pixels for seed in (0, 0, 1)]
    assert (chosen[0] == chosen[1]).all()
    assert (chosen[0] != chosen[2]).any()


def test_files_stay_files(tmp_path: Path):
    for split in ("train", "val"):
        for name, count in (("a", 4), ("b", 4)):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (8, 8), (number, 0, 0))
                image.save(tmp_path / split / name / f"{number}.png")
    options = default_options(
        "imagefolder", train_dir=str(tmp_path / "train"), val_dir=str(tmp_path / "val")
    )
    some = long_tailed(options.load(), 2.0, seed=0)
    assert labels_of(some.train).tolist() == [0] * 4 + [1] * 2
    assert type(some.train) is type(some.labelled_train)
    unlabelled = tmp_path / "train" / "a"
    none = default_options("imagefolder", train_dir=str(unlabelled)).load()
    with pytest.raises(DataError, match="have no labels"):
        long_tailed(none, 2.0, seed=0)


@pytest.mark.parametrize("factor", [0.5, float("nan"), float("inf")])
def test_a_factor_below_1_is_refused(factor):
    with pytest.raises(ConfigError, match="a number of at least 1"):
        default_options("digits", imbalance=factor)


def test_other_kinds_of_images_give_what_was_chosen():
    class Others(torch.utils.data.Dataset):
        targets = (0, 0, 1, 1)

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return Image.new("RGB", (4, 4), (index, 0, 0)), self.targets[index]

    whole = default_options("digits").load()
    some = long_tailed(replace(whole, train=Others(), num_classes=2), 2.0, seed=0).train
    assert [some[i][1] for i in range(len(some))] == [0, 0, 1]
    assert some[0][0].getpixel((0, 0))[0] == 0
