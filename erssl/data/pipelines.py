"""How views are made of pictures: by lightly, or by a way of the same distribution.

A pipeline has three parts: the data set that loader processes read, what is left to do to a batch
where it is used, and the views that the lens watches. Another way to make views is another class
here, and its name in `erssl.data.options.PIPELINES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from lightly.transforms.multi_view_transform import MultiViewTransform
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from erssl.data.datasets import PictureDataset, TransformedDataset
from erssl.data.draws import DrawnPictures, seed_worker
from erssl.data.view_draws import read_view
from erssl.errors import ConfigError

_PROBE_STREAM = 2**20  # a stream of random numbers that no training process or epoch draws from


class ViewPipeline(Protocol):
    """How views are made."""

    def pictures(self, pictures: PictureDataset, seed: int) -> Dataset[Any]:
        """Give the views of pictures, and their class numbers, by epoch and picture.

        They follow from ``seed``, epoch and picture alone.
        """

    def finish(self, views: list[Tensor]) -> list[Tensor]:
        """Make of a batch of such views, on the device that trains, normalised (N, 3, H, W)."""

    def probe(self, pictures: PictureDataset, indices: Sequence[int], seed: int) -> list[Tensor]:
        """Two finished views (N, 3, H, W) of the pictures with these numbers."""


def make_pipeline(name: str, transform: MultiViewTransform) -> ViewPipeline:
    """Make the pipeline of that name.

    Args:
        name: One of `erssl.data.options.PIPELINES`.
        transform: lightly's transform, which says what the views are.

    Returns:
        The pipeline.

    Raises:
        ConfigError: If it needs a package that is not installed, or cannot make such views.
    """
    if name == "fast":
        return FastViews(transform)
    return LightlyViews(transform)


class LightlyViews:
    """lightly's own transform, picture by picture: the reference."""

    def __init__(self, transform: MultiViewTransform) -> None:
        """Take lightly's transform."""
        self.transform = transform

    def pictures(self, pictures: PictureDataset, seed: int) -> Dataset[Any]:
        """As of `ViewPipeline`; the views are ready."""
        return DrawnPictures(TransformedDataset(pictures, self.transform), seed)

    def finish(self, views: list[Tensor]) -> list[Tensor]:
        """As of `ViewPipeline`."""
        return views

    def probe(self, pictures: PictureDataset, indices: Sequence[int], seed: int) -> list[Tensor]:
        """As of `ViewPipeline`."""
        with isolate_rng():
            torch.manual_seed(seed)
            seed_worker(0, rank=_PROBE_STREAM)
            views: list[Any] = []
            for index in indices:
                picture = pictures[index][0]
                drawn = self.transform(picture)
                views.append(drawn if len(drawn) > 1 else drawn + self.transform(picture))
        return [torch.stack([v[i] for v in views]) for i in (0, 1)]


class FastViews:
    """Views of 8-bit pixels by torch and OpenCV (:mod:`erssl.data.fast_views`)."""

    def __init__(self, transform: MultiViewTransform) -> None:
        """Read lightly's transform.

        Raises:
            ConfigError: As of `make_pipeline`.
        """
        self.specs = [read_view(view) for view in transform.transforms]
        try:
            from erssl.data import fast_views
        except ImportError as error:
            raise ConfigError(
                f"data.pipeline=fast needs OpenCV, which cannot be imported ({error}); run "
                "pip install 'erssl[fast]', or set data.pipeline=lightly."
            ) from error
        self._make = fast_views.FastPictures
        self._normalize = fast_views.normalize

    def pictures(self, pictures: PictureDataset, seed: int) -> Dataset[Any]:
        """As of `ViewPipeline`; the views are of 8 bits, (H, W, 3)."""
        return self._make(pictures, self.specs, seed)

    def finish(self, views: list[Tensor]) -> list[Tensor]:
        """As of `ViewPipeline`."""
        return [self._normalize(view, spec) for view, spec in zip(views, self.specs, strict=True)]

    def probe(self, pictures: PictureDataset, indices: Sequence[int], seed: int) -> list[Tensor]:
        """As of `ViewPipeline`."""
        drawn = self._make(pictures, self.specs, seed)
        views: list[Tensor] = []
        for stream in range(_PROBE_STREAM, _PROBE_STREAM + (2 if len(self.specs) == 1 else 1)):
            batch, _ = default_collate(drawn.__getitems__([(stream, index) for index in indices]))
            views += self.finish(batch)
        return views[:2]
