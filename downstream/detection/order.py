"""Which pictures an iteration sees: a function of the seed and the iteration alone.

Detectron2's own order begins anew when a run is resumed, so that the pictures of the first
iterations are seen twice; this one goes on where it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

_Drawn = tuple[int, int]  # number among all pictures drawn, and which picture it is


class PictureOrder(Sampler[list[_Drawn]]):
    """Batches of one process: shuffled passes over all pictures, wide and tall ones apart.

    As in Detectron2 (``TrainingSampler`` and aspect-ratio grouping), the processes share one
    shuffled stream, of which each takes every n-th picture; a batch is full when enough wide or
    enough tall pictures came by, so that little is padded.

    Attributes:
        start: Iteration to begin with; set before the first batch is drawn.
    """

    def __init__(
        self, wide: Sequence[bool], batch_size: int, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        """Fix the order.

        Args:
            wide: Of each picture, whether it is wider than tall.
            batch_size: Pictures of one iteration of this process.
            seed: Of the order.
            rank: Number of this process.
            processes: How many share the pictures.
        """
        self.wide, self.batch_size, self.seed = wide, batch_size, seed
        self.rank, self.processes, self.start = rank, processes, 0

    def __iter__(self) -> Iterator[list[_Drawn]]:
        """Batches without end, from the iteration ``start`` on."""
        return islice(self._batches(), self.start, None)

    def _batches(self) -> Iterator[list[_Drawn]]:
        waiting: dict[bool, list[_Drawn]] = {False: [], True: []}
        for drawn in islice(enumerate(self._stream()), self.rank, None, self.processes):
            alike = waiting[self.wide[drawn[1]]]
            alike.append(drawn)
            if len(alike) == self.batch_size:
                yield alike.copy()
                alike.clear()

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.randperm(len(self.wide), generator=generator).tolist()


class DrawnPictures(Dataset[Any]):
    """Pictures whose augmentation depends on the seed and on when they were drawn."""

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        prepare: Callable[[Any], Any],
        seed: int,
    ) -> None:
        """Bind records to what reads and augments them.

        Args:
            records: Detectron2's dictionaries, one for each picture.
            prepare: Detectron2's mapper, whose chance is NumPy's global generator.
            seed: Of the augmentation.
        """
        self.records, self.prepare, self.seed = records, prepare, seed

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.records)

    def __getitem__(self, drawn: _Drawn) -> Any:
        """Read and augment one picture."""
        number, index = drawn
        with _numpy_seed(self.seed, number):
            return self.prepare(self.records[index])


def loader(pictures: DrawnPictures, order: PictureOrder, workers: int) -> DataLoader[Any]:
    """Batches as lists of what ``prepare`` gives, in the order's order.

    Args:
        pictures: The pictures.
        order: Which of them, and when.
        workers: Loader processes; their number changes nothing.
    """
    # whose first use would else take a number from the generator that the model samples with
    own = torch.Generator()
    return DataLoader(
        pictures, batch_sampler=order, num_workers=workers, collate_fn=list, generator=own
    )


@contextlib.contextmanager
def _numpy_seed(*numbers: int) -> Iterator[None]:
    before = np.random.get_state()
    np.random.seed(np.random.SeedSequence(numbers).generate_state(4))
    try:
        yield
    finally:
        np.random.set_state(before)
