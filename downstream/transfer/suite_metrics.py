"""The three metrics of the transfer suite: top-1, mean per class, 11-point mAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from erssl.data.checks import check_choice
from erssl.errors import DataError, named
from erssl.evaluation.accuracies import classification_metrics

Metric = Literal["top1", "mean_per_class", "map11"]

METRICS: tuple[str, ...] = get_args(Metric)


def average_precision_11(scores: Tensor, positives: Tensor) -> float:
    r"""Average precision at eleven recalls, as defined for PASCAL VOC 2007.

    .. math::
        \mathrm{AP} = \tfrac{1}{11} \sum_{r \in \{0, 0.1, \dots, 1\}} \max_{s \ge r} p(s)

    with the precision p(s) at recall s, where the images of the highest scores are taken for
    positive, down to each of the scores (Everingham et al. 2010, §4.2.1). Images of one score
    are taken together, so that the order of the images does not matter; recalls are compared as
    fractions, since 3/10 is not 0.3 in every sum of floats. The code of Ericsson et al. adds
    scikit-learn's point of recall 0 and precision 1, which the definition does not have: its AP is
    higher, by up to 1/11, where the precision is below 1 at every score.

    Args:
        scores: Of the class, (N,), the higher the likelier.
        positives: 1 where the image shows the class and 0 elsewhere, (N,).

    Returns:
        AP in [0, 1].

    Raises:
        DataError: If shapes do not fit together, scores are NaN, ``positives`` holds anything but
            0 and 1, or no image is positive.

    Example:
        >>> round(average_precision_11(torch.tensor([0.9, 0.5, 0.1]), torch.tensor([1, 0, 1])), 4)
        0.8485
    """
    if scores.ndim != 1:
        raise DataError(
            f"Scores have the shape {tuple(scores.shape)}; give those of one class, (N,)."
        )
    _check(scores[:, None], positives.reshape(*positives.shape, 1))
    if not positives.any():
        raise DataError("No image is positive, so there is no recall; give at least one.")
    return _average_precision(scores, positives)


def mean_average_precision_11(
    scores: Tensor,
    labels: Tensor,
    class_names: Sequence[str] | None = None,
    partial_ok: bool = False,
) -> float:
    """Mean over the classes of :func:`average_precision_11`.

    Args:
        scores: (N, K), the higher the likelier.
        labels: 1 where the image shows the class and 0 elsewhere, (N, K).
        class_names: Names of the K classes, for messages; by default their numbers.
        partial_ok: Leave classes without a positive image out of the mean.

    Returns:
        mAP in [0, 1].

    Raises:
        DataError: As :func:`average_precision_11`, and if a class has no positive image and
            ``partial_ok`` is not set, or none has one.
    """
    values = _per_class(scores, labels, class_names, partial_ok)
    return sum(values.values()) / len(values)


def transfer_metrics(
    metric: Metric,
    scores: Tensor,
    labels: Tensor,
    class_names: Sequence[str] | None = None,
    partial_ok: bool = False,
) -> dict[str, float]:
    """All that a data set's metric stands for.

    Args:
        metric: ``"top1"`` and ``"mean_per_class"`` (the same values, of which this one counts), or
            ``"map11"``.
        scores: One row an image (N, K), the higher the likelier.
        labels: Class numbers (N,), or for ``"map11"`` 1 and 0 for each class (N, K).
        class_names: Names of the K classes; with them each class's value is given too.
        partial_ok: Leave classes without a positive image out of the mAP; classes without a
            image never count in ``mean_per_class``.

    Returns:
        Values in [0, 1]: what :func:`~erssl.evaluation.accuracies.classification_metrics` gives, or
        ``map11`` and, with names, ``ap/<name>`` of each class that has a positive image. Where
        some have none, ``classes_measured`` is the number of those that do.

    Raises:
        ConfigError: If the metric is unknown.
        DataError: If scores and labels do not fit together, or scores are NaN.
    """
    check_choice("metric", metric, METRICS)
    if metric != "map11":
        return classification_metrics(scores, labels, class_names)
    values = _per_class(scores, labels, class_names, partial_ok)
    metrics = {"map11": sum(values.values()) / len(values)}
    if len(values) < scores.shape[1]:
        metrics["classes_measured"] = float(len(values))
    if class_names is not None:
        metrics |= {f"ap/{class_names[k]}": value for k, value in values.items()}
    return metrics


def _per_class(
    scores: Tensor, labels: Tensor, class_names: Sequence[str] | None, partial_ok: bool
) -> dict[int, float]:
    """AP by class number of the classes that have a positive image."""
    _check(scores, labels)
    if class_names is not None and len(class_names) != scores.shape[1]:
        raise DataError(
            f"There are {len(class_names)} class names for scores of {scores.shape[1]} classes; "
            "give one name a class."
        )
    counts = (labels > 0).sum(dim=0).tolist()
    empty = [class_names[k] if class_names else str(k) for k, n in enumerate(counts) if n == 0]
    if len(empty) == len(counts) or (empty and not partial_ok):
        raise DataError(
            f"{len(empty)} of {len(counts)} classes have no positive image ({named(empty)}), so "
            "that their precision is undefined; give images of each, or set partial_ok=true to "
            "take the mean over the others."
        )
    measured = [k for k, n in enumerate(counts) if n > 0]
    return {k: _average_precision(scores[:, k], labels[:, k]) for k in measured}


def _average_precision(scores: Tensor, positives: Tensor) -> float:
    ranked, order = scores.sort(descending=True)
    last = torch.ones_like(ranked, dtype=torch.bool)  # the last image of each score
    last[:-1] = ranked[1:] != ranked[:-1]
    hits = (positives[order] > 0).long().cumsum(0)[last]
    taken = torch.arange(1, len(scores) + 1, device=scores.device)[last]
    precisions = hits.double() / taken
    total = hits[-1]
    best = [precisions[10 * hits >= tenths * total].max() for tenths in range(11)]
    return float(torch.stack(best).sum()) / 11


def _check(scores: Tensor, labels: Tensor) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape or scores.numel() == 0:
        raise DataError(
            f"Scores have the shape {tuple(scores.shape)} and labels {tuple(labels.shape)}; give "
            "both as (N, K), of at least one image."
        )
    if broken := int(scores.isnan().any(dim=1).sum()):
        raise DataError(
            f"The scores of {broken} of {len(scores)} images are NaN; check the features and the "
            "weights that they come from."
        )
    if bool(((labels != 0) & (labels != 1)).any()):
        raise DataError(
            f"Labels of several classes an image run from {float(labels.min()):g} to "
            f"{float(labels.max()):g}; give 1 where the image shows the class and 0 elsewhere."
        )
