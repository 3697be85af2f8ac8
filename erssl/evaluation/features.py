"""Frozen features of a data set, the one input of every protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from erssl.data.checks import check_choice, check_whole
from erssl.data.datasets import ImagesWithTargets, TransformedDataset
from erssl.data.module import start_worker
from erssl.errors import DataError
from erssl.evaluation.cache import FeatureCache
from erssl.evaluation.fingerprints import data_digest, weights_digest, without_addresses
from erssl.evaluation.frozen import PRECISIONS, Precision, freeze

_DTYPES = {"float32": torch.float32, "float16": torch.float16}


class Features(NamedTuple):
    """Features of a split.

    Attributes:
        features: Backbone features (N, feature_dim), float32, on the CPU.
        labels: Class indices (N,), or 1 and 0 for each of K classes (N, K), int64.
    """

    features: Tensor
    labels: Tensor


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
    dtype: Literal["float32", "float16"] = "float32",
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
            as on later ones.
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
    check_choice("dtype", dtype, tuple(_DTYPES))
    check_choice("precision", precision, PRECISIONS)
    check_whole("batch_size", batch_size, 1, "a number of images")
    check_whole("shard_size", shard_size, 1, "a number of images")
    total = len(images)
    if total == 0:
        raise DataError("There are no images to take features of; give at least one.")
    table = _Table(total, progress)
    shards = [range(a, min(a + shard_size, total)) for a in range(0, total, shard_size)]
    cache, missing = None, list(range(len(shards)))
    if cache_dir is not None:
        about = {
            "backbone": type(backbone).__qualname__,
            "weights": weights_digest(backbone) if weights_key is None else weights_key,
            "data": data_digest(images) if data_key is None else data_key,
            "preprocessing": dict(preprocessing),
            "transform": without_addresses(transform),
            "precision": precision,
        }
        cache = FeatureCache(cache_dir, about, _DTYPES[dtype], total, shard_size)
        missing = _read(cache, shards, table)
    if share is not None:
        missing = [i for i in missing if i % share[1] == share[0]]
    batches = [rows for i in missing for rows in _split(shards[i], batch_size)]
    steps = _steps(TransformedDataset(images, transform), batches, num_workers, device)
    with eval_mode(backbone):
        forward = freeze(backbone, precision).forward if missing else backbone
        for i in missing:
            features, labels = _compute(forward, steps, shards[i], device, table)
            features = _narrow(features, _DTYPES[dtype], shards[i])
            table.fill(shards[i], features, labels)
            if cache is not None:
                cache.store(i, features, labels)
    return table.features()


class _Table:
    """The result, allocated once when its width is known."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.rows: Tensor | None = None
        self.labels: Tensor | None = None
        self._filled = torch.zeros(total, dtype=torch.bool)
        self._total = total
        self._done = 0
        self._progress = progress

    def fill(self, rows: range, features: Tensor, labels: Tensor) -> None:
        if self.rows is None or self.labels is None:
            self.rows = torch.empty(self._total, features.shape[1])
            self.labels = torch.empty(self._total, *labels.shape[1:], dtype=torch.int64)
        if features.shape[1] != self.rows.shape[1]:
            raise DataError(
                f"The backbone gives features of {features.shape[1]} dimensions where earlier ones "
                f"have {self.rows.shape[1]}; give a cache_dir that is empty."
            )
        self.rows[rows.start : rows.stop] = features
        self.labels[rows.start : rows.stop] = labels
        self._filled[rows.start : rows.stop] = True

    def advance(self, images: int) -> None:
        self._done += images
        if self._progress is not None:
            self._progress(self._done, self._total)

    def features(self) -> Features:
        if self.rows is None or self.labels is None:  # a share of no shard
            return Features(torch.empty(0, 0), torch.empty(0, dtype=torch.int64))
        if self._filled.all():
            return Features(self.rows, self.labels)
        return Features(self.rows[self._filled], self.labels[self._filled])


def _read(cache: FeatureCache, shards: list[range], table: _Table) -> list[int]:
    """Fill the table from the cache; the numbers of the shards that it lacks."""
    missing: list[int] = []
    width = None  # that of the first whole shard holds for all
    for i, rows in enumerate(shards):
        if (cached := cache.load(i, len(rows), width)) is None:
            missing.append(i)
            continue
        table.fill(rows, *cached)
        table.advance(len(rows))
        width = cached[0].shape[1]
    cache.warn_of_faults()
    return missing


@torch.no_grad()
def _compute(
    forward: Callable[[Tensor], Tensor],
    steps: Iterator[tuple[range, Any]],
    shard: range,
    device: torch.device | str,
    table: _Table,
) -> tuple[Tensor, Tensor]:
    """Features and labels of one shard, from the next batches."""
    features, labels = [], []
    for rows, (images, targets) in steps:
        features.append(forward(images.to(device, non_blocking=True)))
        labels.append(targets)
        table.advance(len(rows))
        if rows.stop == shard.stop:
            break
    return torch.cat(features).cpu(), torch.cat(labels)  # a GPU is waited for once a shard


def _forward(backbone: nn.Module, images: Tensor, device: torch.device | str) -> Tensor:
    """Features (n, d) of one batch, float32, on the CPU."""
    dtype = next((p.dtype for p in backbone.parameters()), torch.float32)
    output: Tensor = backbone(images.to(device, dtype, non_blocking=True))
    return output.flatten(start_dim=1).float().cpu()


def _steps(
    dataset: TransformedDataset, batches: list[range], workers: int, device: torch.device | str
) -> Iterator[tuple[range, Any]]:
    """Batches (images, labels) by one loader, which starts at the first and only if there is one.

    Its generator is its own, so that the global ones are left as they are.
    """
    order: Any = batches
    loader = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        pin_memory=torch.device(device).type == "cuda",
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=start_worker,
    )
    yield from zip(batches, loader, strict=True)


def _split(rows: range, size: int) -> list[range]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _narrow(features: Tensor, dtype: torch.dtype, shard: range) -> Tensor:
    """The features in the type that they are kept in, all of them finite."""
    if broken := int((~features.isfinite()).any(dim=1).sum()):
        raise DataError(
            f"Features of {broken} of the images {shard.start} to {shard.stop - 1} are not "
            "finite; check the backbone's weights, which may hold NaN."
        )
    narrow = features.to(dtype)
    if not narrow.isfinite().all():
        raise DataError(
            f"Features reach {float(features.abs().max()):.3g}, which float16 cannot hold; give "
            "float32 (features_dtype=float32)."
        )
    return narrow
