"""Images of one size that are held in memory, and their views made where they are."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from erssl.data.datasets import ImageDataset, labels_of
from erssl.data.views.device import make_views
from erssl.data.views.draws import ViewSpec, draw_view, numbers_of, streams
from erssl.errors import ConfigError

MOST_BYTES = 2**32  # of images; ImageNet at 32 x 32 is 3.7 GiB, STL-10's unlabelled part 2.6 GiB
_BLOCK = 64  # images that a thread reads at once


class HeldImages(Dataset[Any]):
    """Images in memory, of which a batch only says which ones and from what views are drawn.

    Attributes:
        pixels: The images (N, H, W, 3) of 8 bit, or (N, H, W) of grey ones, on the device that
            makes their views.
        targets: Their class numbers (N,).
        seed: Of what is drawn.
    """

    def __init__(self, images: ImageDataset, seed: int, workers: int = 1) -> None:
        """Hold the images; files are read, once.

        Args:
            images: Images of one size.
            seed: Of what is drawn.
            workers: Threads to read files with.

        Raises:
            ConfigError: If the images are of several sizes, or more than `MOST_BYTES`.
            DataError: If one cannot be read.
        """
        self.pixels, self.targets = _held(images, workers)
        self.seed = seed

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pixels)

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[Any]:
        """A batch of pairs of epoch and image, as torch's loaders ask for it.

        Returns:
            ``[[rows], targets]``: rows (B, 2) for :func:`views_of_rows`, and class numbers (B,).
        """
        (epoch,) = {epoch for epoch, _ in places}
        indices = torch.tensor([index for _, index in places])
        rows = torch.stack([indices, streams(self.seed, epoch, indices)], dim=1)
        return [[rows], self.targets[indices]]


def as_it_is(batch: Any) -> Any:
    """What a loader does to a batch that needs no collating."""
    return batch


def views_of_rows(pixels: Tensor, rows: Tensor, specs: Sequence[ViewSpec]) -> list[Tensor]:
    """Make the views of a batch on the device of its images.

    Args:
        pixels: All images (N, H, W, 3) of 8 bit, or (N, H, W) of grey ones.
        rows: Number of each image of the batch and what its views are drawn from (B, 2).
        specs: The views.

    Returns:
        Normalised views (B, C, size, size), one tensor for each of ``specs``.
    """
    indices, stream = rows.unbind(dim=1)
    every = numbers_of(stream, 0, len(specs))
    made: dict[int, Tensor] = {}
    for spec in dict.fromkeys(specs):  # views of one kind at once: fewer, larger kernels
        numbers = [number for number, other in enumerate(specs) if other == spec]
        uniform = torch.cat([every[number] for number in numbers])
        sides = [torch.full_like(uniform[:, 0], side) for side in pixels.shape[1:3]]
        draws = draw_view(spec, sides[0], sides[1], uniform)
        images = pixels.index_select(0, indices.repeat(len(numbers)))
        if images.ndim == 3:  # grey: one channel is held, and three alike are seen
            images = images[..., None].expand(-1, -1, -1, 3)
        made |= zip(numbers, make_views(images, spec, draws).split(len(rows)), strict=True)
    return [made[number] for number in range(len(specs))]


def _held(images: Any, workers: int) -> tuple[Tensor, Tensor]:
    for held in ("pixels", "data"):  # ours, torchvision's
        if hasattr(images, held):
            pixels = torch.as_tensor(np.asarray(getattr(images, held)))
            return pixels, torch.as_tensor(images.targets, dtype=torch.int64)
    return _read(images, workers)


def _read(images: Any, workers: int) -> tuple[Tensor, Tensor]:
    """Read files, when the first one says that there is room for all."""
    first = images[0][0]
    width, height = first.size
    depth = len(first.getbands())
    if (size := depth * width * height * len(images)) > MOST_BYTES:
        raise ConfigError(
            f"data.pipeline=device would hold {len(images)} images of {width} x {height} "
            f"pixels, {size / 2**30:.1f} GiB, and does so up to {MOST_BYTES / 2**30:.0f} GiB; set "
            "another data.pipeline, or give smaller images."
        )
    shape = (len(images), height, width) if depth == 1 else (len(images), height, width, depth)
    pixels = np.empty(shape, dtype=np.uint8)

    def read(start: int) -> None:
        for index in range(start, min(start + _BLOCK, len(images))):
            image, _ = images[index]
            if image.size != (width, height):
                raise ConfigError(
                    f"data.pipeline=device needs images of one size, but {_name(images, 0)} "
                    f"has {width} x {height} pixels and {_name(images, index)} {image.width} "
                    f"x {image.height}; resize them, or set another data.pipeline."
                )
            pixels[index] = np.asarray(image)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        list(pool.map(read, range(0, len(images), _BLOCK)))
    return torch.from_numpy(pixels), torch.from_numpy(labels_of(images))


def _name(images: Any, index: int) -> str:
    samples = getattr(images, "samples", None)
    return f"image {index}" if samples is None else str(samples[index][0])
