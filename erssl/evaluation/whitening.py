"""Whitened features: directions in which a backbone varies little count as much as the others."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from erssl.errors import ConfigError, DataError
from erssl.evaluation.rows import (
    BLOCK,
    AnyFeatures,
    Features,
    Rows,
    StoredFeatures,
    StoredRows,
    blocks,
)
from erssl.limits import check_memory, size

_ROUNDING = 1e-12  # of a mean: deviations below it are of float64's sums, not of features


class Whitening(NamedTuple):
    """An affine map after which features have mean 0 and, but for shrinkage, covariance 1.

    Attributes:
        mean: Of the features (d,), float64.
        matrix: What deviations from it are multiplied with (d, d), float64.
        shrinkage: Share of the identity in the correlations that it takes away, in [0, 1].
    """

    mean: Tensor
    matrix: Tensor
    shrinkage: float

    def __call__(self, rows: Tensor) -> Tensor:
        """Whiten rows (n, d); the result is float64, on the CPU."""
        return _deviations(rows, self.mean) @ self.matrix


def check_whitening(count: int, width: int) -> None:
    """Refuse features whose correlations do not fit in memory, as those of large images' pixels.

    Args:
        count: Their number of rows N.
        width: Their number of dimensions d.

    Raises:
        ConfigError: If four matrices of d x d and three blocks of rows do not.
    """
    need = torch.float64.itemsize * width * (4 * width + 3 * min(BLOCK, count))
    check_memory(f"Whitening of {width:,} dimensions", need, "leave whiten out")


@torch.no_grad()
def fit_whitening(rows: Rows) -> Whitening:
    """The whitening of features by their own mean and covariance, without any label.

    Each dimension is divided by its standard deviation, and the result multiplied with the inverse
    root of the correlations. These are shrunk towards the identity by as much as Ledoit and Wolf
    (2004, A well-conditioned estimator for large-dimensional covariance matrices, section 3.3)
    estimate is best, so that fewer images than dimensions do too. Sums are of float64, a block at
    a time, since scikit-learn's estimate takes all rows at once.

    Args:
        rows: Features (N, d) of any floating type.

    Returns:
        The map: NaN where a feature is not finite; 0 in a dimension that is the same in all rows.

    Raises:
        ConfigError: If the correlations do not fit in memory.
    """
    count, width = rows.shape
    check_whitening(count, width)
    mean, variance = torch.zeros(2, width, dtype=torch.float64)
    fourth = torch.zeros((), dtype=torch.float64)
    correlations = torch.zeros(width, width, dtype=torch.float64)
    for block in blocks(rows):
        mean += block.to("cpu", torch.float64).sum(0) / count
    for block in blocks(rows):
        variance += _deviations(block, mean).square().sum(0) / count
    scale = torch.where(variance.sqrt() > _ROUNDING * mean.abs(), variance.rsqrt(), 0)
    if not variance.isfinite().all():
        return Whitening(mean, torch.full_like(correlations, torch.nan), torch.nan)
    for block in blocks(rows):
        standard = _deviations(block, mean) * scale
        correlations.addmm_(standard.T, standard, alpha=1 / count)
        fourth += standard.square().sum(1).square().sum() / count
    # Of the correlations less their mean times 1, and of their error, which is no more than that.
    live = max(1, int(scale.count_nonzero()))  # a dimension that never changes has no correlations
    unit = correlations.trace() / live
    squares = correlations.square().sum()
    distance = squares - live * unit.square()
    error = torch.minimum((fourth - squares) / count, distance)
    share = float(error / distance) if error > 0 else 0.0
    values, vectors = torch.linalg.eigh(correlations)
    shrunk = (1 - share) * values.clamp_min(0) + share * unit
    kept = shrunk > torch.finfo(torch.float64).eps * width * shrunk.max()
    inverse = torch.where(kept, shrunk.rsqrt(), 0)
    return Whitening(mean, scale[:, None] * ((vectors * inverse) @ vectors.T), share)


def whitened(
    train: AnyFeatures, val: AnyFeatures, folder: Path | None = None
) -> tuple[AnyFeatures, AnyFeatures]:
    """Whiten the features of both splits by mean and covariance of the training images.

    Cosines of whitened features are what kNN compares with ``whiten=true``: in the features of a
    backbone few directions hold most of the variance, and decide most of a cosine. Retrieval has
    long whitened for that reason (Jégou and Chum 2012, Negative evidences and co-occurrences in
    image retrieval: the benefit of PCA and whitening). Rotations change no cosine, so that PCA and
    ZCA whitening are one.

    Args:
        train: Features (N, d), which the map is fitted to.
        val: Features (N_val, d).
        folder: Where whitened features go of which the originals lie in files.

    Returns:
        Both, with their labels and places as they were, of float32 at least.

    Raises:
        ConfigError: If features lie in files and there is no folder, or the correlations do not
            fit in memory.
        DataError: If a file cannot be written.

    Example:
        >>> rows = torch.randn(500, 2) * torch.tensor([100.0, 1.0])
        >>> train = Features(rows, torch.zeros(500, dtype=torch.long))
        >>> white, _ = whitened(train, train)
        >>> white.features.std(dim=0).round(decimals=1)
        tensor([1., 1.])
    """
    whitening = fit_whitening(train.features)
    return (
        _through(whitening, train, folder and folder / "train.whitened"),
        _through(whitening, val, folder and folder / "val.whitened"),
    )


def _through(whitening: Whitening, features: AnyFeatures, path: Path | None) -> AnyFeatures:
    rows, labels = features
    if isinstance(rows, StoredRows):
        if path is None:
            raise ConfigError(
                "Features that lie in files need a folder for whitened ones; name it."
            )
        return StoredFeatures(_written(whitening, rows, path), labels)
    white = torch.empty_like(rows, dtype=_wide(rows.dtype))
    for start in range(0, len(rows), BLOCK):
        white[start : start + BLOCK] = whitening(rows[start : start + BLOCK])
    return Features(white, labels)


def _written(whitening: Whitening, rows: StoredRows, path: Path) -> StoredRows:
    """Whitened rows in a file of their own, which is mapped into memory."""
    dtype = _wide(rows.dtype)
    need = rows.shape.numel() * dtype.itemsize
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if need > shutil.disk_usage(path.parent).free:  # said before it is filled
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with path.open("wb") as file:
            for block in blocks(rows):
                file.write(whitening(block).to(dtype).numpy().tobytes())
    except OSError as error:
        raise DataError(
            f"Whitened features need {size(need)} in {path.parent} ({error.strerror or error}); "
            "make room there, or leave whiten out."
        ) from error
    held = torch.from_file(str(path), shared=False, size=rows.shape.numel(), dtype=dtype)
    return StoredRows([held.view(rows.shape)], folder=path.parent)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Not float16: what hardly changes in the training images may pass its 65,504 in others."""
    return torch.promote_types(dtype, torch.float32)


def _deviations(rows: Tensor, mean: Tensor) -> Tensor:
    return rows.to("cpu", torch.float64) - mean
