"""The loaders: augmented views to train on, plain images to evaluate on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from lightly.transforms.multi_view_transform import MultiViewTransform
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from erssl.data.checks import check_whole
from erssl.data.datasets import ImageDataset, TransformedDataset
from erssl.data.draws import EpochSampler, place_in, place_to_begin, seed_worker
from erssl.data.imbalance import long_tailed
from erssl.data.options import DataOptions
from erssl.data.views import build_eval_transform, build_views
from erssl.data.views.pipelines import PartImages, last_part, make_pipeline
from erssl.errors import ConfigError, DataError
from erssl.limits import check_images


def start_worker(worker_id: int, rank: int = 0) -> None:
    """Seed a loader process, and leave signals to the process that it works for.

    Ctrl-C and a batch system's SIGTERM reach every process of a group, but the training has to end
    its step before it stops. A loader process ends when its parent says so, or is no more.

    Args:
        worker_id: As of :func:`seed_worker`.
        rank: As of :func:`seed_worker`.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_with_parent, daemon=True).start()
    seed_worker(worker_id, rank)


def _end_with_parent() -> None:
    parent = os.getppid()
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


def make_loader(
    dataset: Dataset[Any],
    batch_size: int,
    num_workers: int,
    seed: int,
    rank: int = 0,
    **keywords: Any,
) -> DataLoader[Any]:
    """A loader that leaves the global generators alone, and whose processes are seeded."""
    # Without a generator of its own, a loader draws from the global one and so changes what the
    # rest of the run draws.
    state = np.random.SeedSequence([seed, 0]).generate_state(1, np.uint64)[0]
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(int(state)),
        worker_init_fn=partial(start_worker, rank=rank),
        **keywords,
    )


class SSLDataModule(LightningDataModule):
    """Loaders of a data set for pretraining and its evaluation.

    Which images a step sees follows from ``seed``, epoch and step, a view of an image from
    ``seed``, epoch and image: neither from the number of loader processes or devices (as long as
    they share the same batch), nor from the global generators, nor from where a run was resumed.

    Attributes:
        options: The data set, with the statistics of its channels.
        batch_size: Images a step on each device.
        seed: Of the order and the augmentations.
        datasets: The raw images and what is known about them.
        pipeline: What makes the views.
    """

    def __init__(self, options: DataOptions, batch_size: int, seed: int) -> None:
        """Load and check the images.

        Args:
            options: The data set.
            batch_size: Images a step on each device.
            seed: Of the order and the augmentations.

        Raises:
            ConfigError: If ``batch_size`` or ``seed`` is out of range, or the pipeline cannot make
                the views or hold the images.
            DataError: If the images are missing, unreadable, or fewer than a batch.
        """
        super().__init__()
        check_whole("batch_size", batch_size, 1, "a number of images")
        check_whole("seed", seed, 0, "a seed")
        self.batch_size = batch_size
        self.seed = seed
        # Before the images, since a wrong recipe is quicker to find than a broken file.
        unknown = (1.0,) * options.channels
        make_pipeline(options.pipeline, _transforms(options, unknown, unknown))
        self.datasets = long_tailed(options.load(), options.imbalance, seed)
        self.options = options = options.measured(self.datasets.train)
        size, mean, std = options.image_size, options.mean, options.std
        transforms = _transforms(options, mean, std)
        self.train_transform = transforms[-1]
        self.pipeline = make_pipeline(options.pipeline, transforms, options.workers)
        self.eval_transform = build_eval_transform(
            size, mean, std, options.interpolation, options.crop_pct
        )
        self._place = (0, 0)
        self.validate()
        self._drawn = self.pipeline.images(self.datasets.train, seed)

    def validate(self, num_devices: int = 1) -> None:
        """Make sure that an epoch has at least one full batch on every device.

        Args:
            num_devices: Training processes that share the images.

        Raises:
            DataError: If it has none.
        """
        available = len(self.datasets.train)
        needed = self.batch_size * num_devices
        if needed > available:
            on = f" on {num_devices} devices" if num_devices > 1 else ""
            raise DataError(
                f"batch_size={needed}{on} is larger than the {available} training images; set "
                f"it to {max(1, available // num_devices) * num_devices} or less, or add images."
            )

    @property
    def trains_with_labels(self) -> bool:
        """Whether the labels are those of the training images themselves, not of others alone."""
        return self.datasets.labelled_train is None or self.options.imbalance > 1

    @property
    def training_classes(self) -> int:
        """Number of classes that the training images themselves have; 1 without labels."""
        return self.datasets.num_classes if self.trains_with_labels else 1

    @property
    def measurable(self) -> bool:
        """Whether accuracy can be measured: labelled validation images of several classes."""
        datasets = self.datasets
        return datasets.val is not None and datasets.labelled and datasets.num_classes > 1

    def probe_views(self, size: int | None = None) -> tuple[Tensor, Tensor]:
        """Draw two views of a fixed set of images, for the lens.

        The images are those of the validation split (of training where there is none), spread
        over it evenly; they and their views depend on the seed alone.

        Args:
            size: Number N of images; ``None`` for 256, or all where there are fewer.

        Returns:
            Two tensors (N, C, side, side), of the side of the run's last global views.

        Raises:
            ConfigError: If there are fewer images.
        """
        images = self.datasets.val if self.datasets.val is not None else self.datasets.train
        size = min(256, len(images)) if size is None else size
        if not 2 <= size <= len(images):
            raise ConfigError(
                f"lens.probe_size={size} does not fit the {len(images)} images of the split "
                f"that it is drawn from; set it to {len(images)} or less and at least 2."
            )
        views, channels = self.options.views, self.options.channels
        side, *_ = views.parts()[-1].sides(self.options.image_size)
        check_images(views.size_key, side, channels, 2 * size, "lens.probe_size")
        return self.spread_views(images, size)

    def spread_views(self, images: ImageDataset, size: int) -> tuple[Tensor, Tensor]:
        """Draw two views of some images of a split, spread over it evenly; the seed alone counts.

        Args:
            images: The split.
            size: Number N of images, 2 to all.

        Returns:
            Two tensors (N, C, side, side), of the side of the run's last global views.
        """
        places = np.linspace(0, len(images) - 1, size).round().astype(int).tolist()
        first, second = self.pipeline.probe(images, places, self.seed)
        return first, second

    def train_dataloader(self) -> DataLoader[Any]:
        """Give shuffled full batches of views.

        Returns:
            A loader of ``[views, targets]``: a list of tensors, and (B,).
            :meth:`on_after_batch_transfer` makes n_views views (B, C, H, W) of that list.

        Raises:
            DataError: If a batch on every device is more than there is.
        """
        trainer = self.trainer
        self.validate(trainer.world_size if trainer is not None else 1)
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        epoch, batches = place_to_begin(trainer, self._place)
        # torch's sampler adds the epoch to the seed; seeds 0 and 1 must not share their orders.
        spread = int(np.random.SeedSequence([self.seed]).generate_state(1, np.uint64)[0]) >> 1
        sampler = EpochSampler(self._drawn, world, rank, seed=spread, drop_last=True)
        sampler.go_on(epoch, batches * self.batch_size)
        if isinstance(self._drawn, PartImages):
            self._drawn.part_at = self._part_at()
        loading = self.pipeline.loading(self.options.workers)
        return self._loader(self._drawn, sampler=sampler, drop_last=True, **loading)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Finish a batch where it is used, as Lightning asks for it and direct users should.

        Args:
            batch: ``[views, targets]`` of :meth:`train_dataloader`, or what another loader gave.
            dataloader_idx: Number of the loader, which does not matter.

        Returns:
            The same with normalised views (B, C, H, W); what has no list of views as it was.
        """
        if not (isinstance(batch, list | tuple) and batch and isinstance(batch[0], list)):
            return batch  # images to evaluate on
        part = -1
        if self.trainer is not None and len(self.options.views.parts()) > 1:
            part = self._part_at()(self.trainer.current_epoch)
        views = self.pipeline.finish(batch[0], part)
        if self.trainer is not None:  # which did so to what there was of the batch before
            views = self.trainer.precision_plugin.convert_input(views)
        return [views, *batch[1:]]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the epoch to go on with and how many of its batches are done."""
        return {} if self.trainer is None else place_in(self.trainer.fit_loop)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on there; read before Lightning asks for the loaders."""
        self._place = state_dict["epoch"], state_dict["batches"]

    def eval_dataloader(self, split: Literal["train", "val"]) -> DataLoader[Any]:
        """Give the images of a split in their order, without augmentation.

        Args:
            split: ``"train"`` or ``"val"``.

        Returns:
            A loader of ``[images, targets]``: (B, C, image_size, image_size) and (B,).

        Raises:
            DataError: If there is no such split.
        """
        images = getattr(self.datasets.evaluated(), split)
        if images is None:
            raise DataError(
                f"data={self.options.name} has no validation images here; {self.options.needs_val}."
            )
        return self._loader(TransformedDataset(images, self.eval_transform))

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Give the validation loader, or an empty list where there is no validation split."""
        # Training images without labels teach the online probe nothing that could be evaluated.
        there = self.datasets.val is not None and self.trains_with_labels
        return self.eval_dataloader("val") if there else []

    def _part_at(self) -> Callable[[int], int]:
        """What part of the training an epoch belongs to; the last where it has no length."""
        epochs = None if self.trainer is None else self.trainer.max_epochs
        if epochs is None or epochs < 1:
            return last_part
        return partial(self.options.views.part_at, epochs=epochs)

    def _loader(self, dataset: Dataset[Any], **keywords: Any) -> DataLoader[Any]:
        keywords = {"num_workers": self.options.workers} | keywords
        return make_loader(dataset, self.batch_size, seed=self.seed, **keywords)


def _transforms(
    options: DataOptions, mean: Sequence[float], std: Sequence[float]
) -> list[MultiViewTransform]:
    """The transform of each part of the training."""
    parts = options.views.parts()
    return [build_views(part, options.image_size, mean, std) for part in parts]
