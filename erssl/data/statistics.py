"""Means and deviations of channels, measured where nobody has published them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_SAMPLE = 1000  # images; of so many the mean is known to about 3 % of a deviation between images


def channel_statistics(images: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel over all pixels of at most a thousand images.

    Args:
        images: A data set of images, of which an even sample is read.

    Returns:
        Means and deviations of values as they are normalised: levels of 8 bits in 0..1. The
        deviation of a channel that is the same everywhere is 1.

    Raises:
        DataError: If an image cannot be read.
    """
    places = np.linspace(0, len(images) - 1, min(_SAMPLE, len(images))).round().astype(int)
    count, sums, squares = 0, torch.zeros(1), torch.zeros(1)
    shift: Tensor | None = None  # about the first image's means, lest large ones cancel
    for place in places.tolist():
        values = _values(images[place][0])
        shift = values.mean(dim=1, keepdim=True) if shift is None else shift
        values = values - shift
        count += values.shape[1]
        sums, squares = sums + values.sum(dim=1), squares + values.square().sum(dim=1)
    assert shift is not None  # there is no data set without images
    mean = sums / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    means = (mean + shift[:, 0]).tolist()
    return _rounded(means), _rounded(deviation.tolist())


def _values(image: Any) -> Tensor:
    """All values (C, H * W) of one image."""
    if isinstance(image, Tensor):
        return image.double().flatten(1)
    levels = torch.from_numpy(np.array(image)).double() / 255
    return levels.reshape(-1, levels.shape[2] if levels.ndim == 3 else 1).T


def _rounded(values: list[float]) -> tuple[float, ...]:
    """Four digits that count, to be read in a config file."""
    return tuple(float(f"{value:.4g}") for value in values)
