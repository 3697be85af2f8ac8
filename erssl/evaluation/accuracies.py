"""Accuracies from the scores of any classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erssl.errors import DataError

_TOP = 5


def classification_metrics(
    scores: Tensor, labels: Tensor, class_names: Sequence[str] | None = None
) -> dict[str, float]:
    """Top-1, top-5 and mean-per-class accuracy.

    Of equal scores the class of the lower number counts as the higher, on every device, so that
    classes without a single vote do not enter the top 5 by chance.

    Args:
        scores: One row an image (N, C), the higher the likelier; votes, logits or probabilities.
        labels: Class numbers (N,).
        class_names: Names of the C classes; with them the recall of each is given too.

    Returns:
        Values in [0, 1]: ``top1``; ``top5`` if there are more than five classes;
        ``mean_per_class``, the mean recall of the classes that ``labels`` holds (Kornblith et al.
        2019; scikit-learn's balanced accuracy); with names ``recall/<name>`` of those classes.

    Raises:
        DataError: If shapes, labels or names do not fit together, or scores are NaN.
    """
    num_classes = _check(scores, labels)
    if class_names is not None and len(class_names) != num_classes:
        raise DataError(
            f"There are {len(class_names)} class names for scores of {num_classes} classes; give "
            "one name a class."
        )
    labels = labels.to(scores.device)
    ranks = _ranks(scores, labels)
    metrics = {"top1": _share(ranks < 1)}
    if num_classes > _TOP:
        metrics["top5"] = _share(ranks < _TOP)
    totals = labels.bincount(minlength=num_classes)
    hits = labels[ranks < 1].bincount(minlength=num_classes)
    present = totals > 0
    recalls = hits[present].double() / totals[present]
    metrics["mean_per_class"] = float(recalls.mean())
    if class_names is not None:
        shown = [name for name, held in zip(class_names, present.tolist(), strict=True) if held]
        pairs = zip(shown, recalls.tolist(), strict=True)
        metrics |= {f"recall/{name}": recall for name, recall in pairs}
    return metrics


def confusion_matrix(scores: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count how often each class is taken for each.

    Args:
        scores: One row an image (N, C), the higher the likelier.
        labels: Class numbers (N,).
        num_classes: Number of classes C.

    Returns:
        Counts (C, C), int64; rows are the true classes, columns the predicted ones.

    Raises:
        DataError: If shapes or labels do not fit together, or scores are NaN.
    """
    if _check(scores, labels) != num_classes:
        raise DataError(
            f"Scores have {scores.shape[1]} columns for num_classes={num_classes}; give one column "
            "a class."
        )
    cells = labels.to(scores.device).long() * num_classes + scores.argmax(dim=1)
    return cells.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def _ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Number of classes (N,) that stand above the true one."""
    labels = labels.long()[:, None]
    own = scores.gather(1, labels)
    lower = torch.arange(scores.shape[1], device=scores.device) < labels
    return ((scores > own) | ((scores == own) & lower)).sum(dim=1)


def _share(right: Tensor) -> float:
    return int(right.sum()) / len(right)


def _check(scores: Tensor, labels: Tensor) -> int:
    """Number of classes of scores and labels that fit together."""
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or scores.numel() == 0:
        raise DataError(
            f"Scores have the shape {tuple(scores.shape)} and labels {tuple(labels.shape)}; give "
            "scores (N, C) and labels (N,) of at least one image."
        )
    if broken := int(scores.isnan().any(dim=1).sum()):
        raise DataError(
            f"The scores of {broken} of {len(scores)} images are NaN; check the features and the "
            "weights that they come from."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= scores.shape[1]:
        raise DataError(
            f"Labels run from {low} to {high} but scores have {scores.shape[1]} classes; give "
            "labels from 0 to C - 1."
        )
    return scores.shape[1]
