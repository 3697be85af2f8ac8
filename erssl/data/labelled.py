"""Loaders for training a classifier, and subsets of the labelled images."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Subset

from erssl.data.datasets import Datasets, ImageDataset, TransformedDataset
from erssl.data.datasets import labels_of as labels_of
from erssl.data.draws import DrawnImages as DrawnImages
from erssl.data.draws import EpochSampler, place_in, place_to_begin
from erssl.data.module import make_loader
from erssl.data.options import DataOptions
from erssl.data.views import build_crop_transform, build_eval_transform
from erssl.errors import ConfigError, DataError, counted, named
from erssl.limits import check_images
from erssl.paths import user_path

Indices = npt.NDArray[np.int64]


class LabelledDataModule(LightningDataModule):
    """Random crops to train on, and the validation images as they are.

    Every process validates on all images, so that none is counted twice.

    Attributes:
        batch_size: Images per step and device: no more than a device's share of those there are.
    """

    def __init__(
        self,
        options: DataOptions,
        datasets: Datasets,
        batch_size: int,
        seed: int,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        flip: bool = True,
        indices: Indices | None = None,
        drop_last: bool = False,
        devices: int = 1,
    ) -> None:
        """Take images that are loaded already.

        Args:
            options: How they are read: size, channel statistics, loader processes.
            datasets: The images; with labels and a validation split.
            batch_size: Images per step and device.
            seed: Of the order and the crops.
            crop_scale: Area of the random crops.
            flip: Whether they are flipped.
            indices: Training images to use, by their numbers; ``None`` for all.
            drop_last: Leave out a last batch that is smaller, for batch normalisation's sake.
            devices: Processes that share the training images.
        """
        super().__init__()
        images = datasets.train
        # Subset keeps to its indices: no other image is ever read
        chosen: Any = images if indices is None else Subset(images, indices.tolist())  # type: ignore[arg-type]
        size, mean, std = options.image_size, options.mean, options.std
        crop = build_crop_transform(size, mean, std, crop_scale, flip)
        plain = build_eval_transform(size, mean, std, options.interpolation, options.crop_pct)
        self.workers = options.workers
        self.seed = seed
        self.train_images = TransformedDataset(chosen, crop)
        self.val_images = TransformedDataset(require_labels(options, datasets), plain)
        self.batch_size = min(batch_size, -(-len(self.train_images) // devices))
        check_images("data.image_size", size, options.channels, self.batch_size, "batch_size")
        self.drop_last = drop_last
        self._place = (0, 0)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the epoch to go on with and how many of its batches are done."""
        return {} if self.trainer is None else place_in(self.trainer.fit_loop)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on there; read before Lightning asks for the loaders."""
        if "first_epoch" in state_dict:  # of older runs, kept at the end of an epoch
            self._place = state_dict["first_epoch"], 0
            return
        self._place = state_dict["epoch"], state_dict["batches"]

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled crops of the sampler's epoch: ``[images, targets]``, (B, 3, H, W) and (B,)."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        images = DrawnImages(self.train_images, self.seed)
        sampler = EpochSampler(images, world, rank, seed=self.seed)
        epoch, batches = place_to_begin(trainer, self._place)
        sampler.go_on(epoch, batches * self.batch_size)
        return make_loader(
            images,
            self.batch_size,
            self.workers,
            self.seed,
            rank=rank,
            drop_last=self.drop_last,
            persistent_workers=self.workers > 0,
            sampler=sampler,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation images in their order."""
        return make_loader(self.val_images, self.batch_size, self.workers, self.seed)


def require_labels(options: DataOptions, datasets: Datasets) -> ImageDataset:
    """The validation images, once it is sure that accuracy can be measured.

    Raises:
        DataError: If there are no labels, no validation images, or a single class.
    """
    if datasets.val is None:
        raise DataError(f"data={options.name} has no validation images here; {options.needs_val}.")
    if not datasets.labelled or datasets.num_classes < 2:
        raise DataError(
            f"data={options.name} has {datasets.num_classes} class; accuracy needs at least "
            "two, each in a sub-folder of its own."
        )
    return datasets.val


def stratified_subset(labels: Indices, fraction: float, seed: int = 0) -> Indices:
    """Choose the same share of every class.

    Args:
        labels: Class numbers (N,).
        fraction: Share, above 0 and at most 1.
        seed: Of the choice.

    Returns:
        Indices of the chosen images, sorted.

    Raises:
        ConfigError: If ``fraction`` is out of range.
        DataError: If a class would be left without images.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction={fraction} must lie above 0 and be at most 1.")
    generator = np.random.default_rng(seed)
    chosen, empty = [], []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(fraction * len(members))
        chosen.append(generator.permutation(members)[:count])
        if count == 0:
            empty.append(f"class {label} with {len(members)}")
    if empty:
        raise DataError(
            f"fraction={fraction} leaves {len(empty)} of {len(chosen)} classes without an image "
            f"({named(empty)}); raise the fraction."
        )
    return np.sort(np.concatenate(chosen))


def listed_subset(images: ImageDataset, file: str | Path) -> Indices:
    """Choose the images that a file lists, one a line.

    A line is an image's file name (``n01440764_10026.JPEG``, as the published 1 % and 10 % lists
    of SimCLR have it), its path below the folder of classes, or its number where the images are
    no files.

    Args:
        images: The training images.
        file: The list.

    Returns:
        Indices of the chosen images, sorted.

    Raises:
        DataError: If the file is missing or empty, names an image that is not there or names one
            twice, or leaves a class without images.
    """
    path = user_path(file)
    if not path.is_file():
        raise DataError(
            f"fraction={file} is neither a number nor a file; give 0.01, 0.1 or a list."
        )
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"fraction={file} is no list of images; give a text file.") from error
    names = [line for line in lines if line]
    numbers = _numbers(images)
    missing = [name for name in names if name not in numbers]
    if missing or not names:
        what = (
            f"names {counted(len(missing), 'image')} that {'is' if len(missing) == 1 else 'are'} "
            f"not there or that several folders have ({named(missing)})"
        )
        raise DataError(
            f"fraction={file} {what if names else 'is empty'}; it must list training images by "
            "file name or <class>/<file name>, or by number where they are no files."
        )
    chosen = np.asarray([numbers[name] for name in names], dtype=np.int64)
    unique = np.unique(chosen)
    if len(unique) < len(chosen):
        raise DataError(f"fraction={file} names {len(chosen) - len(unique)} images twice.")
    labels = labels_of(images)
    if lost := sorted(set(labels.tolist()) - set(labels[unique].tolist())):
        raise DataError(
            f"fraction={file} leaves {len(lost)} classes without an image "
            f"({named(str(label) for label in lost)}); add some of each."
        )
    return unique


def subset_digest(indices: Sequence[int] | Indices) -> str:
    """SHA-256 of the chosen numbers, to tell whether two runs had the same subset."""
    return hashlib.sha256(np.asarray(indices, dtype="<i8").tobytes()).hexdigest()


def _numbers(images: ImageDataset) -> dict[str, int]:
    """Names by which a list may call each image."""
    samples: Any = getattr(images, "samples", None)
    if samples is None:
        return {str(i): i for i in range(len(images))}
    paths = [Path(path) for path, _ in samples]
    root = os.path.commonpath(paths)  # of at least two classes: the folder that holds theirs
    files = Counter(path.name for path in paths)
    numbers = {path.relative_to(root).as_posix(): index for index, path in enumerate(paths)}
    # a file name alone will do where no two folders have the same
    return numbers | {p.name: index for index, p in enumerate(paths) if files[p.name] == 1}
