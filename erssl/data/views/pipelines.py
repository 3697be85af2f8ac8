"""How views are made of images: by lightly, or by a way of the same distribution.

A pipeline has three parts: the data set that loader processes read, what is left to do to a batch
where it is used, and the views that the lens watches. Another way to make views is another class
here, and its name in `erssl.data.options.PIPELINES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from lightly.transforms.multi_view_transform import MultiViewTransform
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from erssl.data.datasets import ImageDataset, TransformedDataset
from erssl.data.draws import DrawnImages, seed_worker
from erssl.data.views.bands import BandView
from erssl.data.views.device import normalize
from erssl.data.views.draws import ViewSpec, read_view
from erssl.data.views.held import HeldImages, as_it_is, views_of_rows
from erssl.errors import ConfigError, installing

_PROBE_STREAM = 2**20  # a stream of random numbers that no training process or epoch draws from


class ViewPipeline(Protocol):
    """How views are made."""

    def images(self, images: ImageDataset, seed: int) -> Dataset[Any]:
        """Give the views of images, and their class numbers, by epoch and image.

        They follow from ``seed``, epoch and image alone.
        """

    def finish(self, views: list[Tensor], part: int = -1) -> list[Tensor]:
        """Make of a batch of such views, on the device that trains, normalised (N, 3, H, W).

        ``part`` is the number of the transform, of several.
        """

    def probe(self, images: ImageDataset, indices: Sequence[int], seed: int) -> list[Tensor]:
        """Two finished views (N, 3, H, W) of the images with these numbers."""

    def loading(self, workers: int) -> dict[str, Any]:
        """Keywords of the loader of such images, where it may have that many processes."""


Transforms = MultiViewTransform | Sequence[MultiViewTransform]


def make_pipeline(name: str, transforms: Transforms, workers: int = 1) -> ViewPipeline:
    """Make the pipeline of that name.

    Args:
        name: One of `erssl.data.options.PIPELINES`.
        transforms: lightly's transform, which says what the views are, or one for each part of
            the training.
        workers: Threads to read files with that are held in memory.

    Returns:
        The pipeline.

    Raises:
        ConfigError: If it needs a package that is not installed, or cannot make such views.
    """
    parts = [transforms] if isinstance(transforms, MultiViewTransform) else list(transforms)
    view = parts[0].transforms[0]
    if name != "lightly" and isinstance(view, BandView):
        raise ConfigError(
            f"data.pipeline={name} makes views of 8-bit RGB or grey, and data.channels is "
            f"{len(view.mean)}; set data.pipeline=lightly."
        )
    if name == "fast":
        return FastViews(parts)
    if name == "device":
        return DeviceViews(parts, workers)
    return LightlyViews(parts)


class PartImages(Dataset[Any]):
    """Images whose views are made another way in each part of a training.

    Attributes:
        part_at: Number of the part that an epoch belongs to; of one that pickles, for loader
            processes.
    """

    def __init__(self, parts: Sequence[Dataset[Any]]) -> None:
        """Take the images of each part; all are of the last until ``part_at`` is set."""
        self.parts = parts
        self.part_at: Callable[[int], int] = last_part

    def __len__(self) -> int:
        """Number of images."""
        return len(self.parts[0])  # type: ignore[arg-type]

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> Any:
        """The views of images in an epoch, as torch's loaders ask for a batch."""
        (epoch,) = {epoch for epoch, _ in places}
        part: Any = self.parts[self.part_at(epoch)]
        if hasattr(part, "__getitems__"):
            return part.__getitems__(places)
        return [part[place] for place in places]


def last_part(epoch: int) -> int:
    """What every epoch belongs to where the length of the training is not known."""
    return -1


def _in_parts(parts: Sequence[Dataset[Any]]) -> Dataset[Any]:
    return parts[0] if len(parts) == 1 else PartImages(parts)


class LightlyViews:
    """lightly's own transform, image by image: the reference."""

    def __init__(self, transforms: Sequence[MultiViewTransform]) -> None:
        """Take lightly's transform of each part."""
        self.transforms = transforms

    def images(self, images: ImageDataset, seed: int) -> Dataset[Any]:
        """As of `ViewPipeline`; the views are ready."""
        return _in_parts(
            [DrawnImages(TransformedDataset(images, t), seed) for t in self.transforms]
        )

    def finish(self, views: list[Tensor], part: int = -1) -> list[Tensor]:
        """As of `ViewPipeline`."""
        return views

    def probe(self, images: ImageDataset, indices: Sequence[int], seed: int) -> list[Tensor]:
        """As of `ViewPipeline`."""
        with isolate_rng():
            torch.manual_seed(seed)
            seed_worker(0, rank=_PROBE_STREAM)
            views: list[Any] = []
            for index in indices:
                image = images[index][0]
                transform = self.transforms[-1]
                drawn = transform(image)
                views.append(drawn if len(drawn) > 1 else drawn + transform(image))
        return [torch.stack([v[i] for v in views]) for i in (0, 1)]

    def loading(self, workers: int) -> dict[str, Any]:
        """As of `ViewPipeline`."""
        return _in_processes(workers)


class FastViews:
    """Views of 8-bit pixels by torch and OpenCV (:mod:`erssl.data.views.fast`)."""

    def __init__(self, transforms: Sequence[MultiViewTransform]) -> None:
        """Read lightly's transform of each part.

        Raises:
            ConfigError: As of `make_pipeline`.
        """
        self.specs = _specs(transforms)
        try:
            from erssl.data.views import fast as fast_views
        except (ImportError, AttributeError) as error:  # the latter: before OpenCV 4.11
            raise ConfigError(
                f"data.pipeline=fast needs OpenCV 4.11 or newer, which cannot be imported "
                f"({error}); {installing('fast')}, or set data.pipeline=lightly."
            ) from error
        self._make = fast_views.FastImages

    def images(self, images: ImageDataset, seed: int) -> Dataset[Any]:
        """As of `ViewPipeline`; the views are of 8 bits, (C, H, W)."""
        return _in_parts([self._make(images, specs, seed) for specs in self.specs])

    def finish(self, views: list[Tensor], part: int = -1) -> list[Tensor]:
        """As of `ViewPipeline`."""
        each = zip(views, self.specs[part], strict=True)
        return [normalize(view, spec) for view, spec in each]

    def probe(self, images: ImageDataset, indices: Sequence[int], seed: int) -> list[Tensor]:
        """As of `ViewPipeline`."""
        drawn = self._make(images, self.specs[-1], seed)
        views: list[Tensor] = []
        for stream in range(_PROBE_STREAM, _PROBE_STREAM + (2 if len(self.specs[-1]) == 1 else 1)):
            batch, _ = default_collate(drawn.__getitems__([(stream, index) for index in indices]))
            views += self.finish(batch)
        return views[:2]

    def loading(self, workers: int) -> dict[str, Any]:
        """As of `ViewPipeline`."""
        return _in_processes(workers)


class DeviceViews:
    """Views of images of one size, made where they train (:mod:`erssl.data.views.device`).

    The images are held in memory, from the first batch on in that of the device. A loader, which
    is part of the training process, says which ones are next.
    """

    def __init__(self, transforms: Sequence[MultiViewTransform], workers: int) -> None:
        """Read lightly's transform of each part.

        Raises:
            ConfigError: As of `make_pipeline`.
        """
        self.specs = _specs(transforms)
        self.workers = workers
        self._lightly = LightlyViews(transforms)

    def images(self, images: ImageDataset, seed: int) -> Dataset[Any]:
        """As of `ViewPipeline`; a batch has no views but what they are made of.

        Raises:
            ConfigError: If the images cannot be held.
        """
        self._held = HeldImages(images, seed, self.workers)
        return self._held

    def finish(self, views: list[Tensor], part: int = -1) -> list[Tensor]:
        """As of `ViewPipeline`."""
        (rows,) = views
        held = self._held
        held.pixels = held.pixels.to(rows.device)  # and nowhere else from then on
        return views_of_rows(held.pixels, rows, self.specs[part])

    def probe(self, images: ImageDataset, indices: Sequence[int], seed: int) -> list[Tensor]:
        """As of `ViewPipeline`; a few images, of any size: lightly's own views."""
        return self._lightly.probe(images, indices, seed)

    def loading(self, workers: int) -> dict[str, Any]:
        """As of `ViewPipeline`."""
        return {"num_workers": 0, "collate_fn": as_it_is}


def _specs(transforms: Sequence[MultiViewTransform]) -> list[list[ViewSpec]]:
    return [[read_view(view) for view in transform.transforms] for transform in transforms]


def _in_processes(workers: int) -> dict[str, Any]:
    return {"num_workers": workers, "persistent_workers": workers > 0}
