"""When the accuracy of a trained classifier is doubted."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from erssl.evaluation import Features
from erssl.evaluation.plausibility import Neighbours, doubts, neighbours, sample

EVEN = torch.arange(10).repeat(20)  # 200 images of ten classes


def test_chance_is_a_warning_and_better_than_chance_is_none():
    (sentence,) = doubts(0.10, EVEN, 10)
    assert "10.0% is chance" in sentence and "10 classes, 200 images" in sentence
    assert "by another preset" in sentence
    (sentence,) = doubts(0.10, EVEN, 10, instead="pretrain for more epochs")
    assert sentence.endswith("backbone; pretrain for more epochs.") and "preset" not in sentence
    # the edge: the normal approximation of the binomial, at two standard deviations
    edge = 0.1 + 2 * stats.binom(200, 0.1).std() / 200
    assert doubts(edge - 1e-3, EVEN, 10) and not doubts(edge + 1e-3, EVEN, 10)


def test_chance_is_the_share_of_the_largest_class():
    uneven = torch.tensor([0] * 90 + [1] * 10)
    assert "90.0% here" in doubts(0.9, uneven, 2)[0]
    assert not doubts(0.99, uneven, 2)


def test_far_below_kNN_is_a_warning():
    compared = Neighbours(0.795, 200, 200)
    (sentence,) = doubts(0.386, EVEN, 10, compared)
    assert "38.6% is far below the 79.5% of kNN (k=200)" in sentence
    assert not doubts(0.78, EVEN, 10, compared)
    assert not doubts(0.95, EVEN, 10, compared)
    assert len(doubts(0.1, EVEN, 10, compared)) == 2


def test_few_validation_images_leave_more_to_chance():
    labels = torch.arange(10).repeat(2)
    assert not doubts(0.6, labels, 10, Neighbours(0.75, 20, 20))
    assert doubts(0.6, EVEN.repeat(10), 10, Neighbours(0.75, 200, 2000))


def test_neighbours_are_scikit_learns():
    torch.manual_seed(0)
    centres = torch.randn(4, 8)
    train, val = (
        Features(centres[y] + torch.randn(len(y), 8), y)
        for y in (torch.randint(4, (300,)), torch.randint(4, (100,)))
    )
    reference = KNeighborsClassifier(200, weights=lambda d: np.exp((1 - d**2 / 2) / 0.1))
    reference.fit(normalize(train.features), train.labels)
    compared = neighbours(train, val, 4)
    expected = reference.score(normalize(val.features), val.labels)
    assert compared == (pytest.approx(expected), 200, 100)


def test_a_sample_is_the_same_each_time_and_of_the_images_that_were_used():
    images = list(range(100))
    drawn = sample(images, 10)
    assert list(drawn) == list(sample(images, 10)) and len(set(drawn)) == 10
    assert set(sample(images, 10, np.arange(50, 70))) <= set(range(50, 70))
    assert list(sample(images, 1000)) == images
