"""Segmentation by one confusion matrix of all pixels: intersection over union and accuracies."""

from __future__ import annotations

import torch
from torch import Tensor

from erssl.downstream.segmentation.masks import IGNORED
from erssl.errors import DataError


def count_pixels(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Count which class is taken for which, pixel by pixel.

    Args:
        predicted: Class numbers of any shape.
        truth: Class numbers of the same shape; pixels of 255 are left out.
        classes: Number of classes C.

    Returns:
        Counts (C, C) as int64, rows are the truth.
    """
    counted = truth != IGNORED
    pairs = truth[counted].long() * classes + predicted[counted].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def class_ious(matrix: Tensor) -> Tensor:
    """Intersection over union (C,) in float64; nan of a class that is neither there nor predicted.

    Args:
        matrix: Counts (C, C), rows are the truth.
    """
    counts = matrix.double()
    hits = counts.diagonal()
    return hits / (counts.sum(dim=0) + counts.sum(dim=1) - hits)


def segmentation_metrics(matrix: Tensor) -> dict[str, float]:
    """Metrics in [0, 1] of one confusion matrix over a whole split.

    Args:
        matrix: Counts (C, C), rows are the truth.

    Returns:
        ``miou``, the mean of :func:`class_ious` over classes that are there or predicted;
        ``pixel_accuracy``; and ``mean_class_accuracy`` over classes that are there.

    Raises:
        DataError: If no pixel was counted.
    """
    counts = matrix.double()
    if not counts.sum():
        raise DataError(
            f"No pixel of the validation masks belongs to a class: all are {IGNORED}, which is "
            "left out; give masks with classes."
        )
    recalls = counts.diagonal() / counts.sum(dim=1)
    return {
        "miou": float(class_ious(matrix).nanmean()),
        "pixel_accuracy": float(counts.diagonal().sum() / counts.sum()),
        "mean_class_accuracy": float(recalls.nanmean()),
    }
