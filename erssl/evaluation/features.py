"""Frozen features of a data set, the one input of every protocol."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erssl.data.checks import check_choice, check_whole
from erssl.data.datasets import ImagesWithTargets, TransformedDataset
from erssl.errors import DataError, ErsslWarning
from erssl.evaluation.cache import DTYPES, FeatureCache, StoredType
from erssl.evaluation.filling import (
    MappedShards,
    Table,
    compute,
    image_steps,
    narrowed,
    split_range,
)
from erssl.evaluation.fingerprints import data_digest, weights_digest, without_addresses
from erssl.evaluation.frozen import PRECISIONS, Precision, freeze
from erssl.evaluation.rows import Features, StoredFeatures


@contextlib.contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode, and every part of it back into its own mode afterwards.

    ``module.train()`` would wake up the batch normalisations that somebody has put to rest.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@torch.no_grad()
def extract_features(
    backbone: nn.Module, loader: Iterable[Any], device: torch.device | str = "cpu"
) -> Features:
    """Pass a data set through a frozen backbone.

    The backbone runs in eval mode and is left in the mode it came in; neither its weights nor its
    running statistics change.

    Args:
        backbone: Module giving features (N, feature_dim) of images (N, 3, H, W).
        loader: Batches (images, labels, …).
        device: Where the backbone is.

    Returns:
        Features and labels in the loader's order.
    """
    features, labels = [], []
    with eval_mode(backbone):
        for batch in loader:
            features.append(_forward(backbone, batch[0], device))
            labels.append(batch[1])
    return Features(torch.cat(features), torch.cat(labels))


def cached_features(
    backbone: nn.Module,
    images: ImagesWithTargets,
    transform: Callable[[Any], Tensor],
    *,
    cache_dir: Path | None,
    preprocessing: Mapping[str, Any],
    weights_key: str | None = None,
    data_key: str | None = None,
    dtype: StoredType = "float32",
    precision: Precision = "float32",
    batch_size: int = 256,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    shard_size: int = 4096,
    share: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Frozen features of a data set, read from disk as far as they are there.

    They are kept in shards, in a folder that is named after all that they depend on: weights,
    images, preprocessing, type and version (its ``about.json`` tells them). A run that was
    killed leaves whole shards, and the next call computes the others only. A shard that is damaged
    is computed again with a warning; so is everything, with a warning, where the folder cannot be
    written to. Features do not depend on which shards were there.

    Args:
        backbone: Module giving features (n, d) of images (n, 3, H, W); left as it came.
        images: The data set, of a kind that :func:`~erssl.evaluation.fingerprints.data_digest`
            knows, unless ``data_key`` is given.
        transform: From an image to a tensor (3, H, W), without chance.
        cache_dir: Folder of the cache; ``None`` for no cache.
        preprocessing: What ``transform`` does: size, mean, std, interpolation; part of the key, as
            is the text of ``transform`` itself.
        weights_key: What stands for the weights in the key, in place of their digest.
        data_key: What stands for the images in the key, in place of their digest.
        dtype: How features are kept. ``"float16"`` halves the space, with a relative error of
            at most 2⁻¹¹ (6e-8 absolutely below 6e-5); also of what is returned, on the first call
            as on later ones. ``"auto"`` is float32 here, where all are held in memory.
        precision: In what the backbone computes; ``"bf16"`` is bfloat16, with a relative error of
            about 2⁻⁸ in each layer, for processors that compute quicker in it.
        batch_size: Images a step; no batch reaches over the end of a shard.
        num_workers: Loader processes.
        device: Where the backbone is.
        shard_size: Images a shard; 4,096 features of a ResNet-50 are 32 MiB.
        share: Number of this process and of all that fill one cache: it computes each so-manieth
            shard, and none of the others.
        progress: Called with the number of images done and of all.

    Returns:
        Features (N, d), float32, and labels (N,), or (N, K) where images show several classes,
        on the CPU, in the order of ``images``; with a ``share`` those of the shards that are there.

    Raises:
        ConfigError: If an option is out of range, or nothing tells when the images change.
        DataError: If there are no images, one cannot be read, or features are not finite.
    """
    table = Table(len(images), progress)
    kept = "float32" if dtype == "auto" else dtype
    plan = _Plan(images, transform, preprocessing, precision, batch_size, num_workers, device)
    shards = plan.shards(shard_size, dtype)
    cache = None
    if cache_dir is not None:
        about = plan.about(backbone, weights_key, data_key)
        cache = FeatureCache(cache_dir, about, kept, len(images), shard_size)
    plan.fill(table, backbone, shards, cache, kept, share)
    return table.features()


def stored_features(
    backbone: nn.Module,
    images: ImagesWithTargets,
    transform: Callable[[Any], Tensor],
    *,
    cache_dir: Path,
    preprocessing: Mapping[str, Any],
    weights_key: str | None = None,
    data_key: str | None = None,
    dtype: StoredType = "auto",
    precision: Precision = "float32",
    batch_size: int = 256,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    shard_size: int = 4096,
    share: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> StoredFeatures:
    """Frozen features of a data set that stay on disk, of which blocks are read when asked for.

    The folder is that of :func:`cached_features`, with the same shards, keys and care, but that
    there is no going on without it. Of the process's own memory the features take one shard while
    they are computed and one block while they are read, however many images there are.

    Args:
        backbone: As of :func:`cached_features`, as are all that are not said here.
        images: The data set.
        transform: From an image to a tensor.
        cache_dir: Folder of the cache, which features are read from.
        preprocessing: What ``transform`` does.
        weights_key: What stands for the weights in the key.
        data_key: What stands for the images in the key.
        dtype: How features are kept. ``"auto"`` takes float32 shards where some are there already;
            else float16, but for shards with a feature above 65,504 or rows that float16 rounds by
            more than 2⁻¹⁰ of their length, as tiny ones; these are kept in float32, with a warning.
        precision: In what the backbone computes.
        batch_size: Images a step.
        num_workers: Loader processes.
        device: Where the backbone is.
        shard_size: Images a shard.
        share: Number of this process and of all that fill one cache.
        progress: Called with the number of images done and of all.

    Returns:
        Features and labels in the order of ``images``; with a ``share`` those that are there.

    Raises:
        ConfigError: If an option is out of range, or nothing tells when the images change.
        DataError: If there are no images, one cannot be read, features are not finite, or the
            folder cannot take them.
    """
    plan = _Plan(images, transform, preprocessing, precision, batch_size, num_workers, device)
    shards = plan.shards(shard_size, dtype)
    about = plan.about(backbone, weights_key, data_key)
    key = (cache_dir, about)
    if dtype == "auto" and FeatureCache.is_begun(*key, "float32", len(images), shard_size):
        dtype = "float32"
    cache = FeatureCache(*key, dtype, len(images), shard_size, required=True)
    maps = MappedShards(len(images), progress, cache)
    plan.fill(maps, backbone, shards, cache, dtype, share)
    return maps.features()


@dataclass(frozen=True)
class _Plan:
    """How features are taken of which images."""

    images: ImagesWithTargets
    transform: Callable[[Any], Tensor]
    preprocessing: Mapping[str, Any]
    precision: Precision
    batch_size: int
    num_workers: int
    device: torch.device | str

    def shards(self, size: int, dtype: str) -> list[range]:
        """Numbers of the images of each shard, once the options are known to be right."""
        check_choice("dtype", dtype, tuple(DTYPES))
        check_choice("precision", self.precision, PRECISIONS)
        check_whole("batch_size", self.batch_size, 1, "a number of images")
        check_whole("shard_size", size, 1, "a number of images")
        total = len(self.images)
        if total == 0:
            raise DataError("There are no images to take features of; give at least one.")
        return [range(a, min(a + size, total)) for a in range(0, total, size)]

    def about(
        self, backbone: nn.Module, weights_key: str | None, data_key: str | None
    ) -> dict[str, Any]:
        """What the features depend on, beside how they are kept."""
        return {
            "backbone": type(backbone).__qualname__,
            "weights": weights_digest(backbone) if weights_key is None else weights_key,
            "data": data_digest(self.images) if data_key is None else data_key,
            "preprocessing": dict(self.preprocessing),
            "transform": without_addresses(self.transform),
            "precision": self.precision,
        }

    def fill(
        self,
        table: Table | MappedShards,
        backbone: nn.Module,
        shards: list[range],
        cache: FeatureCache | None,
        dtype: StoredType,
        share: tuple[int, int] | None,
    ) -> None:
        """Take what is in the cache, and compute the rest."""
        missing = list(range(len(shards))) if cache is None else _read(cache, shards, table)
        if share is not None:
            missing = [i for i in missing if i % share[1] == share[0]]
        if cache is not None and (width := getattr(backbone, "feature_dim", None)) and missing:
            cache.check_room(sum(len(shards[i]) for i in missing), int(width))
        batches = [rows for i in missing for rows in split_range(shards[i], self.batch_size)]
        dataset = TransformedDataset(self.images, self.transform)
        steps = image_steps(dataset, batches, self.num_workers, self.device)
        wide = 0
        with eval_mode(backbone):
            forward = freeze(backbone, self.precision).forward if missing else backbone
            for i in missing:
                features, labels = compute(forward, steps, shards[i], self.device, table.advance)
                features = narrowed(features, dtype, shards[i])
                wide += features.dtype == torch.float32
                if cache is not None:
                    cache.store(i, features, labels)
                table.fill(i, shards[i], features, labels)
        if wide and dtype == "auto":
            warnings.warn(
                f"{wide} of {len(shards)} shards of features hold numbers too large or too small "
                "for float16; these are kept in float32.",
                ErsslWarning,
                stacklevel=3,
            )


def _read(cache: FeatureCache, shards: list[range], table: Table | MappedShards) -> list[int]:
    """Fill the table from the cache; the numbers of the shards that it lacks."""
    missing: list[int] = []
    width = None  # that of the first whole shard holds for all
    for i, rows in enumerate(shards):
        if (cached := cache.load(i, len(rows), width)) is None:
            missing.append(i)
            continue
        table.fill(i, rows, *cached)
        table.advance(len(rows))
        width = cached[0].shape[1]
    cache.warn_of_faults()
    return missing


def _forward(backbone: nn.Module, images: Tensor, device: torch.device | str) -> Tensor:
    """Features (n, d) of one batch, float32, on the CPU."""
    dtype = next((p.dtype for p in backbone.parameters()), torch.float32)
    output: Tensor = backbone(images.to(device, dtype, non_blocking=True))
    return output.flatten(start_dim=1).float().cpu()
