"""Whether the accuracy of a trained classifier can be taken for a reading of the backbone."""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Subset

from erssl.evaluation.knn import knn_accuracy
from erssl.evaluation.rows import AnyFeatures, StoredRows, selected

_FAR_BELOW = 0.05  # of kNN, in accuracy: more than protocols differ by on the same features
_DEVIATIONS = 2.0  # of the difference that so many validation images leave to chance
MOST_VOTERS, MOST_ASKED = 20_000, 5_000  # images whose features a training is compared with
K, TEMPERATURE = 200, 0.1  # the one protocol of kNN (Wu et al. 2018; lightly's benchmarks)


class Neighbours(NamedTuple):
    """What kNN says of the frozen features that a classifier starts from.

    Attributes:
        accuracy: Top-1, in [0, 1].
        k: Neighbours that voted.
        images: Validation images that were classified.
    """

    accuracy: float
    k: int
    images: int


def neighbours(train: AnyFeatures, val: AnyFeatures, num_classes: int) -> Neighbours:
    """Classify frozen features by their neighbours, for comparison.

    Of features that lie in files, which are many, at most 20,000 vote and 5,000 are classified,
    drawn as :func:`sample` draws.

    Args:
        train: Features (N, d) of the images that are trained on.
        val: Features of validation images.
        num_classes: Number of classes.
    """
    train, val = _drawn(train, MOST_VOTERS), _drawn(val, MOST_ASKED)
    k = min(K, len(train.labels))
    accuracy = knn_accuracy(train, val, num_classes, k, TEMPERATURE)
    return Neighbours(accuracy, k, len(val.labels))


def _drawn(features: AnyFeatures, most: int) -> AnyFeatures:
    if not isinstance(features.features, StoredRows):
        return features
    return selected(features, torch.from_numpy(_draw(np.arange(len(features.labels)), most)))


def sample(images: Sized, most: int, of: npt.NDArray[np.int64] | None = None) -> Subset[Any]:
    """Draw a part of a data set that is large enough to see that a training failed.

    Args:
        images: The data set.
        most: Images at the most; the draw is the same each time.
        of: Numbers of the images to draw from; ``None`` for all.
    """
    numbers = np.arange(len(images)) if of is None else of
    return Subset(images, _draw(numbers, most).tolist())  # type: ignore[arg-type]


def _draw(numbers: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """At most so many of the numbers, sorted; the same each time."""
    drawn: npt.NDArray[np.int64] = np.sort(np.random.default_rng(0).permutation(numbers)[:most])
    return drawn


def doubts(
    accuracy: float,
    labels: Tensor,
    num_classes: int,
    compared: Neighbours | None = None,
    what: str = "The classifier's top-1 of",
    instead: str = "",
) -> list[str]:
    """Say where the accuracy of a trained classifier reads its training and not the backbone.

    It is doubted at chance, which is the share of the most frequent class (or one class in
    ``num_classes``) and two standard deviations, and where neighbours among the same features are
    better by more than 5 points and than two standard deviations of the difference.

    Args:
        accuracy: Of the classifier, in [0, 1].
        labels: Class numbers (N_val,) of the validation images.
        num_classes: Number of classes.
        compared: What kNN says of the same features.
        what: Beginning of the sentence, before the accuracy.
        instead: What to do, where the command has no preset to choose.

    Returns:
        Sentences, none where there is nothing to say.
    """
    sentences = []
    counts = torch.bincount(labels.flatten().cpu(), minlength=num_classes)
    chance = max(1 / num_classes, int(counts.max()) / len(labels))
    if accuracy <= chance + _DEVIATIONS * _deviation(chance, len(labels)):
        sentences.append(
            f"{what} {accuracy:.1%} is chance, which is {chance:.1%} here ({num_classes} classes, "
            f"{len(labels):,} images): it says nothing of the backbone; "
            f"{instead or 'train for more steps, or by another preset'}."
        )
    if compared is not None:
        images = min(compared.images, len(labels))
        spread = _DEVIATIONS * math.sqrt(2) * _deviation(compared.accuracy, images)
        if compared.accuracy - accuracy > max(_FAR_BELOW, spread):
            sentences.append(
                f"{what} {accuracy:.1%} is far below the {compared.accuracy:.1%} of kNN "
                f"(k={compared.k}) on the same frozen features: it reads how the classifier was "
                "trained, not the backbone; "
                f"{instead or 'try preset=auto, more epochs, or another learning rate'}."
            )
    return sentences


def _deviation(share: float, images: int) -> float:
    """Standard deviation of a share of ``images`` independent draws."""
    return math.sqrt(share * (1 - share) / images)
