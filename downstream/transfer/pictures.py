"""The kinds of pictures that the suite's data sets are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset

from erssl.data.datasets import PicturesInMemory
from erssl.data.folders import PictureFiles
from erssl.data.images import load_image
from erssl.downstream.transfer.splits import Indices


class MultiLabelFiles(Dataset[tuple[Image.Image, npt.NDArray[np.float32]]]):
    """Picture files that may show several classes each, read when asked for.

    Attributes:
        samples: ``(path, marks)`` of each picture, with 1 or 0 for each class.
    """

    def __init__(self, samples: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        """Take ``(path, marks)`` of each picture."""
        self.samples = list(samples)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, npt.NDArray[np.float32]]:
        """Read one picture; with it the marks of the classes (K,).

        Raises:
            DataError: If the file cannot be read.
        """
        path, marks = self.samples[index]
        return load_image(path), np.asarray(marks, dtype=np.float32)


Pictures = PictureFiles | PicturesInMemory | MultiLabelFiles


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        train_val: The pictures to train and to choose hyper-parameters on.
        test: The pictures to test on.
        class_names: Names in the order of the class numbers; empty where none is known.
        split: Positions in ``train_val`` of the data set's own training and validation pictures;
            ``None`` where it has no such split.
        notes: What differs from the original, as sentences.
    """

    train_val: Pictures
    test: Pictures
    class_names: Sequence[str]
    split: tuple[Indices, Indices] | None = None
    notes: tuple[str, ...] = ()


def take(pictures: Pictures, indices: Indices) -> Pictures:
    """The pictures at some positions, as a data set of the same kind."""
    if isinstance(pictures, PicturesInMemory):
        return PicturesInMemory(pictures.pixels[indices], pictures.targets[indices])
    if isinstance(pictures, PictureFiles):
        return PictureFiles([pictures.samples[i] for i in indices.tolist()])
    return MultiLabelFiles(pictures.samples[i] for i in indices.tolist())


def targets_of(pictures: Pictures) -> Indices:
    """Class numbers (N,) of all pictures, or 1 and 0 for each class (N, K), without reading one."""
    if isinstance(pictures, PicturesInMemory):
        return pictures.targets
    return np.asarray([target for _, target in pictures.samples], dtype=np.int64)
