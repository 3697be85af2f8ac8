"""Frozen features of a data set, the one input of every protocol."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from typing_extensions import Required, Unpack

from erssl.data.checks import check_choice, check_whole
from erssl.data.datasets import ImagesWithTargets, TransformedDataset
from erssl.data.phases import say_phase
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


class FeatureOptions(TypedDict, total=False):
    """How features are taken and kept; all but ``preprocessing`` may be left out.

    Attributes:
        preprocessing: What ``transform`` does: size, mean, std, interpolation; part of the key, as
            is the text of ``transform`` itself.
        weights_key: What stands for the weights in the key, in place of their digest.
        data_key: What stands for the images in the key, in place of their digest.
        dtype: How features are kept. ``"float16"`` halves the space, with a relative error of
            at most 2⁻¹¹ (6e-8 absolutely below 6e-5); also of what is returned, on the first call
            as on later ones.
        precision: In what the backbone computes, float32 unless said; ``"bf16"`` is bfloat16, with
            a relative error of about 2⁻⁸ in each layer, for processors that compute quicker in it.
        batch_size: Images a step, 256 unless said; no batch reaches over the end of a shard.
        num_workers: Loader processes, none unless said.
        device: Where the backbone is, the CPU unless said.
        shard_size: Images a shard, 4,096 unless said: 32 MiB of features of a ResNet-50.
        share: Number of this process and of all that fill one cache: it computes each so-manieth
            shard, and none of the others.
        progress: Called with the number of images done and of all.
    """

    preprocessing: Required[Mapping[str, Any]]
    weights_key: str | None
    data_key: str | None
    dtype: StoredType
    precision: Precision
    batch_size: int
    num_workers: int
    device: torch.device | str
    shard_size: int
    share: tuple[int, int] | None
    progress: Callable[[int, int], None] | None


def cached_features(
    backbone: nn.Module,
    images: ImagesWithTargets,
    transform: Callable[[Any], Tensor],
    *,
    cache_dir: Path | None,
    **options: Unpack[FeatureOptions],
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
        options: See :class:`FeatureOptions`. ``dtype="auto"`` is float32, as is nothing said,
            since all are held in memory.

    Returns:
        Features (N, d), float32, and labels (N,), or (N, K) where images show several classes,
        on the CPU, in the order of ``images``; with a ``share`` those of the shards that are there.

    Raises:
        ConfigError: If an option is out of range, or nothing tells when the images change.
        DataError: If there are no images, one cannot be read, or features are not finite.
    """
    plan = _Plan(backbone, images, transform, **options)
    table = Table(len(images), plan.progress)
    kept = "float32" if plan.dtype == "auto" else plan.dtype
    cache = None
    if cache_dir is not None:
        cache = FeatureCache(cache_dir, plan.about(), kept, len(images), plan.shard_size)
    plan.fill(table, cache, kept)
    return table.features()


def stored_features(
    backbone: nn.Module,
    images: ImagesWithTargets,
    transform: Callable[[Any], Tensor],
    *,
    cache_dir: Path,
    **options: Unpack[FeatureOptions],
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
        options: See :class:`FeatureOptions`. ``dtype="auto"``, which is taken where nothing is
            said, keeps float32 shards where some are there already; else float16, but for shards
            with a feature above 65,504 or rows that float16 rounds by more than 2⁻¹⁰ of their
            length, as tiny ones; these are kept in float32, with a warning.

    Returns:
        Features and labels in the order of ``images``; with a ``share`` those that are there.

    Raises:
        ConfigError: If an option is out of range, or nothing tells when the images change.
        DataError: If there are no images, one cannot be read, features are not finite, or the
            folder cannot take them.
    """
    options.setdefault("dtype", "auto")
    plan = _Plan(backbone, images, transform, **options)
    size, dtype = plan.shard_size, plan.dtype
    key = (cache_dir, plan.about())
    if dtype == "auto" and FeatureCache.is_begun(*key, "float32", len(images), size):
        dtype = "float32"
    cache = FeatureCache(*key, dtype, len(images), size, required=True)
    maps = MappedShards(len(images), plan.progress, cache)
    plan.fill(maps, cache, dtype)
    return maps.features()


@dataclass(frozen=True)
class _Plan:
    """How features are taken of which images; see :class:`FeatureOptions`."""

    backbone: nn.Module
    images: ImagesWithTargets
    transform: Callable[[Any], Tensor]
    preprocessing: Mapping[str, Any]
    weights_key: str | None = None
    data_key: str | None = None
    dtype: StoredType = "float32"
    precision: Precision = "float32"
    batch_size: int = 256
    num_workers: int = 0
    device: torch.device | str = "cpu"
    shard_size: int = 4096
    share: tuple[int, int] | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("dtype", self.dtype, tuple(DTYPES))
        check_choice("precision", self.precision, PRECISIONS)
        check_whole("batch_size", self.batch_size, 1, "a number of images")
        check_whole("shard_size", self.shard_size, 1, "a number of images")
        if len(self.images) == 0:
            raise DataError("There are no images to take features of; give at least one.")

    def about(self) -> dict[str, Any]:
        """What the features depend on, beside how they are kept."""
        weights = weights_digest(self.backbone) if self.weights_key is None else self.weights_key
        return {
            "backbone": type(self.backbone).__qualname__,
            "weights": weights,
            "data": data_digest(self.images) if self.data_key is None else self.data_key,
            "preprocessing": dict(self.preprocessing),
            "transform": without_addresses(self.transform),
            "precision": self.precision,
        }

    def fill(
        self, table: Table | MappedShards, cache: FeatureCache | None, dtype: StoredType
    ) -> None:
        """Take what is in the cache, and compute the rest."""
        total, backbone = len(self.images), self.backbone
        starts = range(0, total, self.shard_size)
        shards = [range(start, min(start + self.shard_size, total)) for start in starts]
        missing = list(range(len(shards))) if cache is None else _read(cache, shards, table)
        if cache is not None and len(missing) < len(shards):
            found = total - sum(len(shards[i]) for i in missing)
            say_phase(f"Features of {found:,} of {total:,} images are taken from {cache.folder}.")
        if self.share is not None:
            own, processes = self.share
            missing = [i for i in missing if i % processes == own]
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
