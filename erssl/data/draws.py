"""An epoch's order and what is drawn for each image, from seed, epoch and image alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler


@contextmanager
def drawing_from(*place: int) -> Iterator[None]:
    """Let whatever is drawn inside follow from ``place``, and leave the generators as they were.

    torch's CPU generator, Python's and NumPy's are seeded: lightly's blur, solarisation and
    rotation draw from NumPy's, timm's RandAugment from Python's and NumPy's. Those of GPUs are
    left alone, since loader processes draw images.

    Args:
        place: Whole numbers of at least 0 that name what is drawn, such as seed, epoch, image.
    """
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch_seed, python_seed, numpy_seed = _seeds(place)
    torch.default_generator.manual_seed(torch_seed)
    random.seed(python_seed)
    np.random.seed(numpy_seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


def draw_on_from(*place: int) -> None:
    """Seed every global generator, those of GPUs among them, for all that is drawn from now on.

    Args:
        place: As of :func:`drawing_from`.
    """
    torch_seed, python_seed, numpy_seed = _seeds(place)
    torch.manual_seed(torch_seed)
    random.seed(python_seed)
    np.random.seed(numpy_seed)


def seed_worker(worker_id: int, rank: int = 0) -> None:
    """Seed every random number generator that a transform may use, in a loader process.

    lightly's blur, solarisation and rotation draw from numpy's global generator, which torch
    leaves alone: forked workers would all repeat the parent's draws.

    Args:
        worker_id: Number of the loader process, given by torch.
        rank: Number of the training process; each has its own augmentations.
    """
    # torch gives each worker the loader's seed plus the worker's number.
    sequence = np.random.SeedSequence([torch.initial_seed() - worker_id, worker_id, rank])
    torch_seed, python_seed = sequence.generate_state(2, np.uint64)
    torch.manual_seed(int(torch_seed))
    random.seed(int(python_seed))
    np.random.seed(sequence.spawn(1)[0].generate_state(4))


def _seeds(place: tuple[int, ...]) -> tuple[int, int, int]:
    words = np.random.SeedSequence(place).generate_state(3, np.uint64)
    return int(words[0]), int(words[1]), int(words[2]) % 2**32


class EpochSampler(DistributedSampler[Any]):
    """A process's share of an epoch's order, as pairs of epoch and image.

    The images of step k are those of one process with the batch of all, whatever the number of
    processes. Each pass is an epoch further. Lightning says ``set_epoch`` as each epoch begins,
    except for the first of a training that is resumed: :meth:`go_on` tells that one.
    """

    _skipped = 0

    def go_on(self, epoch: int, images: int = 0) -> None:
        """Begin with an epoch whose first images were seen before.

        Args:
            epoch: Number of the epoch, from 0.
            images: How many of this process's share are left out.
        """
        self.set_epoch(epoch)
        self._skipped = images

    def __iter__(self) -> Iterator[Any]:
        """What is left of the epoch's order; all of it from the second epoch on."""
        epoch, skipped = self.epoch, self._skipped
        order = list(super().__iter__())[skipped:]
        self.go_on(epoch + 1)
        return ((epoch, index) for index in order)


def place_in(loop: Any) -> dict[str, int]:
    """The epoch that Lightning's ``fit_loop`` goes on with, and its batches that are done."""
    epochs = loop.epoch_progress.current
    inside = epochs.started > epochs.processed
    batches = loop.epoch_loop.batch_progress.current.ready if inside else 0
    return {"epoch": epochs.processed, "batches": batches}


def place_to_begin(trainer: Any, resumed: tuple[int, int]) -> tuple[int, int]:
    """The epoch that a new training loader begins with, and its batches that are done.

    Lightning asks for a loader before it has read the epoch from a checkpoint, and again within
    that epoch or in later ones where the trainer's ``reload_dataloaders_every_n_epochs`` says so.

    Args:
        trainer: Lightning's; ``None`` where the loader is used without one.
        resumed: What :func:`place_in` gave of the checkpoint; zeros where there was none.
    """
    epoch = 0 if trainer is None else int(trainer.current_epoch)
    return resumed if epoch <= resumed[0] else (epoch, 0)


class DrawnImages(Dataset[Any]):
    """Images whose random transform depends on seed, epoch and image alone.

    No matter which loader process draws them, and what it drew before: a training that was stopped
    goes on with the views that it would have had.
    """

    def __init__(self, images: Dataset[Any], seed: int) -> None:
        """Take images whose transform draws from the global generators."""
        self.images = images
        self.seed = seed

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, place: tuple[int, int]) -> Any:
        """What is drawn in an epoch from an image, and its class number."""
        epoch, index = place
        with drawing_from(self.seed, epoch, index):
            return self.images[index]
