"""Images and targets as torchvision's detectors take them.

``pycocotools`` is imported late and may be absent.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from erssl.downstream.detection.coco import CocoImage, CocoInstance
from erssl.downstream.detection.image_files import open_image
from erssl.downstream.detection.masks import draw_mask
from erssl.downstream.detection.sampling import generator_of

Target: TypeAlias = dict[str, Tensor]


class PackedImages(Sequence[CocoImage]):
    """Images of a data set in one array.

    Loader processes share it; of many small objects each would make a copy of its own in time,
    since counting references writes to them.
    """

    def __init__(self, images: Iterable[CocoImage]) -> None:
        """Pack the images."""
        parts = [pickle.dumps(image) for image in images]
        self._ends = np.cumsum([len(part) for part in parts])
        self._bytes = np.frombuffer(b"".join(parts), dtype=np.uint8)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        """One image."""
        begin = self._ends[index - 1] if index else 0
        return pickle.loads(self._bytes[begin : self._ends[index]].tobytes())


class TrainingImages(Dataset[tuple[Tensor, Target]]):
    """Images at a random size, flipped or not, and their boxes, classes and masks.

    As Detectron2's ``ResizeShortestEdge`` and ``RandomFlip`` do: a short side drawn from a list,
    the long side limited, Pillow's bilinear filter, a mirror image in half of the cases.
    """

    def __init__(
        self, images: Iterable[CocoImage], min_sizes: Sequence[int], max_size: int, seed: int
    ) -> None:
        """Take the images and how they are augmented."""
        self.images = PackedImages(images)
        self.min_sizes, self.max_size, self.seed = tuple(min_sizes), max_size, seed

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, which: tuple[int, int]) -> tuple[Tensor, Target]:
        """Image (3, H, W) in [0, 1] and its target, of ``(iteration, number)``.

        Raises:
            DataError: If the image cannot be read, or has not the size that the file says.
        """
        iteration, number = which
        chance = generator_of(self.seed, iteration, number)
        image: CocoImage = self.images[number]
        size = shape_of(image, int(chance.choice(self.min_sizes)), self.max_size)
        mirrored = bool(chance.random() < 0.5)
        pixels = open_image(image).resize(size, Image.Resampling.BILINEAR)
        if mirrored:
            pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return as_tensor(pixels), target_of(image, size, mirrored)


class ValidationImages(Dataset[tuple[int, Tensor]]):
    """Images at the size of the test, with their numbers."""

    def __init__(self, images: Iterable[CocoImage], size: int, max_size: int) -> None:
        """Take the images and the short side."""
        self.images = PackedImages(images)
        self.size, self.max_size = size, max_size

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        """Number and image (3, H, W) in [0, 1].

        Raises:
            DataError: If the image cannot be read, or has not the size that the file says.
        """
        image: CocoImage = self.images[index]
        shape = shape_of(image, self.size, self.max_size)
        return index, as_tensor(open_image(image).resize(shape, Image.Resampling.BILINEAR))


def shape_of(image: CocoImage, short: int, longest: int) -> tuple[int, int]:
    """Width and height at a short side, with the long side limited.

    Example:
        >>> from pathlib import Path
        >>> wide = CocoImage(1, Path("a.jpg"), 640, 480, ())
        >>> shape_of(wide, 800, 1333), shape_of(wide, 800, 1000)
        ((1067, 800), (1000, 750))
    """
    sides = image.width, image.height
    scale = min(short / min(sides), longest / max(sides))
    width, height = (max(1, int(side * scale + 0.5)) for side in sides)
    return width, height


def as_tensor(image: Image.Image) -> Tensor:
    """Image (3, H, W) in [0, 1]."""
    pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255
    return torch.from_numpy(np.ascontiguousarray(pixels))


def target_of(image: CocoImage, size: tuple[int, int], mirrored: bool) -> Target:
    """Boxes (N, 4) as corners, classes (N,) from 1, masks (N, H, W) of what is trained on.

    Args:
        image: What is in the image.
        size: Width and height that it was resized to.
        mirrored: Whether left and right were swapped.
    """
    kept, boxes = [], []
    for instance in image.trainable:
        box = _box(instance, image, size, mirrored)
        if box[2] > box[0] and box[3] > box[1]:  # else it lay outside
            kept.append(instance)
            boxes.append(box)
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([i.label + 1 for i in kept], dtype=torch.int64),  # 0: background
    }
    if all(i.segmentation is not None for i in kept):
        masks = [mask_of(i, image, size, mirrored) for i in kept]
        shape = (len(masks), size[1], size[0])
        target["masks"] = torch.from_numpy(np.array(masks, dtype=np.uint8).reshape(shape))
    return target


def mask_of(
    instance: CocoInstance, image: CocoImage, size: tuple[int, int], mirrored: bool
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Mask (H, W) of ones and zeros at the size of the resized image."""
    width, height = size
    segmentation = instance.segmentation or []
    if isinstance(segmentation, dict):
        whole = Image.fromarray(draw_mask(segmentation, image.height, image.width))
        mask = np.asarray(whole.resize(size, Image.Resampling.NEAREST))
    else:
        scale = width / image.width, height / image.height
        mask = draw_mask(segmentation, height, width, scale)
    return np.ascontiguousarray(mask[:, ::-1] if mirrored else mask)


def collate(batch: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """Lists, since images differ in size."""
    first, second = zip(*batch, strict=True)
    return list(first), list(second)


def _box(
    instance: CocoInstance, image: CocoImage, size: tuple[int, int], mirrored: bool
) -> tuple[float, float, float, float]:
    """Corners in the resized image, cut at its edges."""
    (x, y, w, h), (width, height) = instance.box, size
    across, down = width / image.width, height / image.height
    x0, x1 = (min(max(v * across, 0.0), width) for v in (x, x + w))
    y0, y1 = (min(max(v * down, 0.0), height) for v in (y, y + h))
    return (width - x1, y0, width - x0, y1) if mirrored else (x0, y0, x1, y1)
