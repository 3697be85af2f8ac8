"""Which images an iteration sees, and how each is augmented: functions of the seed alone.

A training that is resumed at any iteration therefore goes on with what it would have seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from erssl.data.module import start_worker


class BatchOrder:
    """Images of each iteration: shuffled epochs, with wide and tall images in separate batches.

    Batches of one orientation need less padding (Detectron2's aspect-ratio grouping). What is left
    of both at the end of an epoch makes mixed batches, and the last is filled up from the epoch's
    beginning, so that every batch is full and every epoch has as many.

    Attributes:
        batches: Number of batches in an epoch.
    """

    def __init__(self, wide: Sequence[bool], batch_size: int, seed: int) -> None:
        """Take the orientation of each image.

        Args:
            wide: Whether an image is at least as wide as tall.
            batch_size: Images of one iteration, of all devices together.
            seed: Of the order.
        """
        self._wide = np.asarray(wide, dtype=bool)
        self._size = batch_size
        self._seed = seed
        halves = (int(self._wide.sum()), int((~self._wide).sum()))
        rest = sum(n % batch_size for n in halves)
        self.batches = sum(n // batch_size for n in halves) + -(-rest // batch_size)
        self._kept: tuple[int, list[list[int]]] | None = None

    def batch(self, iteration: int) -> list[int]:
        """Numbers of the images of an iteration, from 0."""
        epoch, place = divmod(iteration, self.batches)
        if self._kept is None or self._kept[0] != epoch:
            self._kept = (epoch, self._epoch(epoch))
        return self._kept[1][place]

    def _epoch(self, epoch: int) -> list[list[int]]:
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(len(self._wide))
        size, full, rest = self._size, [], []
        for half in (order[self._wide[order]], order[~self._wide[order]]):
            whole = len(half) // size * size
            full += [half[i : i + size].tolist() for i in range(0, whole, size)]
            rest += half[whole:].tolist()
        missing = -len(rest) % size
        rest += np.resize(order, missing).tolist()
        full += [rest[i : i + size] for i in range(0, len(rest), size)]
        return [full[i] for i in generator.permutation(len(full))]


class IterationSampler(Sampler[list[tuple[int, int]]]):
    """Batches of ``(iteration, image)`` of one process, from any iteration on.

    Its length is that of the whole training, since Lightning counts the batches before a resumed
    one as fetched.
    """

    def __init__(
        self, order: BatchOrder, begin: int, end: int, rank: int = 0, processes: int = 1
    ) -> None:
        """Give the iterations ``begin`` to ``end`` - 1 and the process among ``processes``."""
        self._order, self._begin, self._end = order, begin, end
        self._rank, self._processes = rank, processes

    def __len__(self) -> int:
        """Number of iterations from 0 to the end."""
        return self._end

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Batch after batch."""
        for iteration in range(self._begin, self._end):
            mine = self._order.batch(iteration)[self._rank :: self._processes]
            yield [(iteration, image) for image in mine]


def generator_of(seed: int, iteration: int, image: int) -> np.random.Generator:
    """Chance of one image in one iteration."""
    return np.random.default_rng([seed, iteration, image])


class PreparedRecords(Dataset[Any]):
    """Records of images, read and augmented by a function whose chance is NumPy's global one."""

    def __init__(
        self, records: Sequence[Mapping[str, Any]], prepare: Callable[[Any], Any], seed: int
    ) -> None:
        """Bind records to what reads and augments them.

        Args:
            records: One for each image.
            prepare: Reads and augments one, such as Detectron2's mapper.
            seed: Of the augmentation.
        """
        self.records, self.prepare, self.seed = records, prepare, seed

    def __len__(self) -> int:
        """Number of images."""
        return len(self.records)

    def __getitem__(self, place: tuple[int, int]) -> Any:
        """One image as an iteration sees it, whatever process reads it."""
        iteration, image = place
        with _numpy_seed(self.seed, iteration, image):
            return self.prepare(self.records[image])


def record_loader(
    records: PreparedRecords, sampler: IterationSampler, workers: int
) -> DataLoader[Any]:
    """Batches as lists of what ``prepare`` gives.

    Args:
        records: The images.
        sampler: Which of them, and when.
        workers: Loader processes; their number changes nothing.
    """
    # whose first use would else take a number from the generator that the model samples with
    own = torch.Generator()
    return DataLoader(
        records,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=list,
        generator=own,
        worker_init_fn=start_worker,
    )


@contextlib.contextmanager
def _numpy_seed(*numbers: int) -> Iterator[None]:
    before = np.random.get_state()
    np.random.seed(np.random.SeedSequence(numbers).generate_state(4))
    try:
        yield
    finally:
        np.random.set_state(before)
