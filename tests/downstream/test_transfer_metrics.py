"""Metrics: against the definition in fractions, and scikit-learn."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from erssl.downstream.transfer.suite_metrics import (
    average_precision_11,
    mean_average_precision_11,
    transfer_metrics,
)
from erssl.errors import ConfigError, DataError


def by_definition(scores, positives):
    """VOC 2007: for each recall the best precision of any threshold that reaches it, exactly."""
    points = []
    for threshold in set(scores):
        taken = [p for s, p in zip(scores, positives, strict=True) if s >= threshold]
        recall = Fraction(int(sum(taken)), int(sum(positives)))
        points.append((recall, Fraction(int(sum(taken)), len(taken))))
    best = [max(p for r, p in points if r >= Fraction(k, 10)) for k in range(11)]
    return float(sum(best) / 11)


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_average_precision_is_the_definitions(levels, dtype):
    draw = np.random.default_rng(levels)
    for size in (1, 2, 3, 10, 11, 57):
        scores = draw.integers(0, levels, size) / 8 - 1
        positives = (draw.random(size) < 0.3).astype(int)
        positives[draw.integers(size)] = 1
        metrics = average_precision_11(torch.tensor(scores, dtype=dtype), torch.tensor(positives))
        assert metrics == pytest.approx(
            by_definition(scores.tolist(), positives.tolist()), abs=1e-12
        )


def test_recalls_are_compared_exactly():
    # 3 of 10 positives come first: recall is 0.3, and linspace(0, 1, 11)[3] lies above it
    positives = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0, 0, *[1] * 7])
    scores = torch.linspace(1, 0, 17)
    expected = (4 * 1 + 7 * 10 / 17) / 11
    assert average_precision_11(scores, positives) == pytest.approx(expected)


def test_ties_do_not_depend_on_the_order():
    positives = torch.tensor([1, 0, 0, 0])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert average_precision_11(torch.zeros(4), positives[order]) == 0.25


def test_perfect_and_worst_scores():
    positives = torch.tensor([1.0, 1, 0, 0])
    assert average_precision_11(torch.tensor([4.0, 3, 2, -np.inf]), positives) == 1
    assert average_precision_11(torch.tensor([1.0, 2, 3, 4]), positives) == pytest.approx(0.5)


def test_mean_over_classes():
    draw = np.random.default_rng(0)
    scores, labels = draw.normal(size=(40, 5)), draw.integers(0, 2, (40, 5))
    each = [by_definition(scores[:, k].tolist(), labels[:, k].tolist()) for k in range(5)]
    scores, labels = torch.tensor(scores), torch.tensor(labels)
    assert mean_average_precision_11(scores, labels) == pytest.approx(np.mean(each))
    metrics = transfer_metrics("map11", scores, labels, list("abcde"))
    assert metrics == pytest.approx(
        {"map11": np.mean(each), **{f"ap/{n}": v for n, v in zip("abcde", each, strict=True)}}
    )


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_accuracies_are_scikit_learns(metric):
    draw = np.random.default_rng(1)
    scores, labels = draw.normal(size=(60, 7)), draw.choice([0, 1, 1, 1, 3, 6], 60)
    metrics = transfer_metrics(metric, torch.tensor(scores), torch.tensor(labels))
    guesses = scores.argmax(1)
    assert metrics["top1"] == pytest.approx(accuracy_score(labels, guesses))
    assert metrics["mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, guesses))


def test_a_class_without_positives_is_named_or_left_out():
    scores = torch.tensor([[0.9, 0.1, 0.3], [0.1, 0.2, 0.4]])
    labels = torch.tensor([[1, 0, 0], [0, 0, 1]])
    with pytest.raises(DataError, match=r"1 of 3 classes have no positive image \(cow\).*partial"):
        mean_average_precision_11(scores, labels, ["car", "cow", "dog"])
    assert mean_average_precision_11(scores, labels, partial_ok=True) == 1
    metrics = transfer_metrics("map11", scores, labels, ["car", "cow", "dog"], partial_ok=True)
    assert metrics == {"map11": 1, "classes_measured": 2, "ap/car": 1, "ap/dog": 1}
    with pytest.raises(DataError, match="3 of 3 classes"):
        transfer_metrics("map11", scores, labels * 0, partial_ok=True)
    with pytest.raises(DataError, match="No image is positive"):
        average_precision_11(scores[:, 1], labels[:, 1])


@pytest.mark.parametrize(
    ("scores", "labels", "sentence"),
    [
        (torch.tensor([[0.0, np.nan], [1.0, 2.0]]), torch.ones(2, 2), "1 of 2 images are NaN"),
        (torch.zeros(2, 3), torch.ones(2, 2), "have the shape"),
        (torch.zeros(0, 3), torch.zeros(0, 3), "at least one image"),
        (torch.zeros(2, 2), torch.full((2, 2), 2), "run from 2 to 2"),
        (torch.zeros(2, 2), torch.full((2, 2), -1), "run from -1 to -1"),
    ],
)
def test_bad_scores_and_labels(scores, labels, sentence):
    with pytest.raises(DataError, match=sentence):
        transfer_metrics("map11", scores, labels)


def test_bad_values():
    with pytest.raises(ConfigError, match="metric=map is unknown"):
        transfer_metrics("map", torch.zeros(1, 1), torch.ones(1, 1))
    with pytest.raises(DataError, match="1 class names for scores of 2"):
        transfer_metrics("map11", torch.zeros(1, 2), torch.ones(1, 2), ["a"])
    with pytest.raises(DataError, match="those of one class"):
        average_precision_11(torch.zeros(2, 2), torch.ones(2, 2))
