"""Where features go while they are taken: into one tensor, or into shards that are mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from erssl.data.datasets import TransformedDataset
from erssl.data.module import start_worker
from erssl.errors import DataError
from erssl.evaluation.cache import DTYPES, FeatureCache
from erssl.evaluation.rows import Features, StoredFeatures, StoredRows

_ROUNDED = 2.0**-10  # of a row's length: twice what float16 leaves of values that are not tiny


class _Progress:
    """How many images are done, and the width of their features."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress
        self._width: int | None = None

    def advance(self, images: int) -> None:
        """Tell that so many more images are done."""
        self._done += images
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _check_width(self, features: Tensor) -> None:
        width = features.shape[1]
        if self._width is not None and width != self._width:
            raise DataError(
                f"The backbone gives features of {width} dimensions where earlier ones "
                f"have {self._width}; give a cache_dir that is empty."
            )
        self._width = width


class Table(_Progress):
    """All features in one tensor, allocated once when its width is known."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        """Take the number of images, and what is told of how many are done."""
        super().__init__(total, progress)
        self._rows: Tensor | None = None
        self._labels: Tensor | None = None
        self._filled = torch.zeros(total, dtype=torch.bool)

    def fill(self, number: int, rows: range, features: Tensor, labels: Tensor) -> None:
        """Keep the features (n, d) and labels (n, …) of a shard's images."""
        self._check_width(features)
        if self._rows is None or self._labels is None:
            self._rows = torch.empty(self._total, features.shape[1])
            self._labels = torch.empty(self._total, *labels.shape[1:], dtype=torch.int64)
        self._rows[rows.start : rows.stop] = features
        self._labels[rows.start : rows.stop] = labels
        self._filled[rows.start : rows.stop] = True

    def features(self) -> Features:
        """What there is, in the order of the images."""
        if self._rows is None or self._labels is None:  # a share of no shard
            return Features(torch.empty(0, 0), torch.empty(0, dtype=torch.int64))
        if self._filled.all():
            return Features(self._rows, self._labels)
        return Features(self._rows[self._filled], self._labels[self._filled])


class MappedShards(_Progress):
    """The shards of a cache that holds all of them, mapped into memory."""

    def __init__(
        self, total: int, progress: Callable[[int, int], None] | None, cache: FeatureCache
    ) -> None:
        """Take the cache, into which every shard is written before it is filled in here."""
        super().__init__(total, progress)
        self._cache = cache
        self._shards: dict[int, tuple[Tensor, Tensor]] = {}

    def fill(self, number: int, rows: range, features: Tensor, labels: Tensor) -> None:
        """Map a shard's file, of which features in memory are no longer held."""
        self._check_width(features)
        mapped = self._cache.load(number, len(rows), features.shape[1], check=False)
        if mapped is None:
            raise DataError(
                f"Shard {number} of the features in {self._cache.folder} has gone while it was "
                "written; start again, and keep other programs out of the folder."
            )
        self._shards[number] = mapped[0], mapped[1].clone()

    def features(self) -> StoredFeatures:
        """What there is, in the order of the images."""
        ordered = [self._shards[number] for number in sorted(self._shards)]
        if not ordered:  # a share of no shard
            none = torch.empty(0, dtype=torch.int64)
            return StoredFeatures(StoredRows([torch.empty(0, 0)]), none)
        rows = StoredRows([features for features, _ in ordered], folder=self._cache.folder)
        return StoredFeatures(rows, torch.cat([labels for _, labels in ordered]))


@torch.no_grad()
def compute(
    forward: Callable[[Tensor], Tensor],
    steps: Iterator[tuple[range, Any]],
    shard: range,
    device: torch.device | str,
    advance: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """Features and labels of one shard, from the next batches."""
    features, labels = [], []
    for rows, (images, targets) in steps:
        features.append(forward(images.to(device, non_blocking=True)))
        labels.append(targets)
        advance(len(rows))
        if rows.stop == shard.stop:
            break
    return torch.cat(features).cpu(), torch.cat(labels)  # a GPU is waited for once a shard


def image_steps(
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


def split_range(rows: range, size: int) -> list[range]:
    """The numbers of a range, ``size`` at a time."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def narrowed(features: Tensor, dtype: str, shard: range) -> Tensor:
    """The features (n, d) in the type that they are kept in, all of them finite.

    Args:
        features: As the backbone gives them, float32.
        dtype: ``"float32"``, ``"float16"``, or ``"auto"``: float16 where it holds them.
        shard: Numbers of the images, for messages.

    Raises:
        DataError: If some are not finite, or float16 cannot hold them and was asked for.
    """
    if broken := int((~features.isfinite()).any(dim=1).sum()):
        raise DataError(
            f"Features of {broken} of the images {shard.start} to {shard.stop - 1} are not "
            "finite; check the backbone's weights, which may hold NaN."
        )
    narrow = features.to(DTYPES[dtype][0])
    finite = bool(narrow.isfinite().all())
    if dtype == "auto":
        lost = (narrow.float() - features).norm(dim=1)
        held = finite and bool((lost <= _ROUNDED * features.norm(dim=1)).all())
        return narrow if held else features
    if not finite:
        raise DataError(
            f"Features reach {float(features.abs().max()):.3g}, which float16 cannot hold; give "
            "float32 (features_dtype=float32)."
        )
    return narrow
