"""The kinds of images that the suite's data sets are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset

from erssl.data.datasets import ImagesInMemory
from erssl.data.folders import ImageFiles
from erssl.data.images import load_image
from erssl.data.parts import part_of
from erssl.downstream.transfer.splits import Indices


class MultiLabelFiles(Dataset[tuple[Image.Image, npt.NDArray[np.float32]]]):
    """Image files that may show several classes each, read when asked for.

    Attributes:
        samples: ``(path, marks)`` of each image, with 1 or 0 for each class.
    """

    def __init__(self, samples: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        """Take ``(path, marks)`` of each image."""
        self.samples = list(samples)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, npt.NDArray[np.float32]]:
        """Read one image; with it the marks of the classes (K,).

        Raises:
            DataError: If the file cannot be read.
        """
        path, marks = self.samples[index]
        return load_image(path), np.asarray(marks, dtype=np.float32)


Images = ImageFiles | ImagesInMemory | MultiLabelFiles


@dataclass(frozen=True)
class FolderContent:
    """What a folder holds.

    Attributes:
        train_val: The images to train and to choose hyper-parameters on.
        test: The images to test on.
        class_names: Names in the order of the class numbers; empty where none is known.
        split: Positions in ``train_val`` of the data set's own training and validation images;
            ``None`` where it has no such split.
        notes: What differs from the original, as sentences.
    """

    train_val: Images
    test: Images
    class_names: Sequence[str]
    split: tuple[Indices, Indices] | None = None
    notes: tuple[str, ...] = ()


def take(images: Images, indices: Indices) -> Images:
    """The images at some positions, as a data set of the same kind."""
    if isinstance(images, MultiLabelFiles):
        return MultiLabelFiles(images.samples[i] for i in indices.tolist())
    part: Images = part_of(images, indices)
    return part


def targets_of(images: Images) -> Indices:
    """Class numbers (N,) of all images, or 1 and 0 for each class (N, K), without reading one."""
    if isinstance(images, ImagesInMemory):
        return images.targets
    return np.asarray([target for _, target in images.samples], dtype=np.int64)
