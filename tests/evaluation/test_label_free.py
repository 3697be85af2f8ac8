"""Readings without labels: CLID's parts against scikit-learn and known dimensions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from erssl.entropy import effective_rank, eigenspectrum_decay
from erssl.evaluation.clid import cluster_learnability, intrinsic_dimension, neighbours_agreement
from erssl.evaluation.label_free import READINGS, goodness, label_free_reading
from erssl.evaluation.lens_quantities import lens_reading


def rows(count=80, dim=5, seed=0):
    return torch.randn(
        count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("k", [1, 5])
def test_the_vote_of_neighbours_is_scikit_learns(k):
    z = F.normalize(rows(), dim=1)
    labels = (z[:, 0] > 0).long() + 2 * (z[:, 1] > 0.2).long()
    classifier = KNeighborsClassifier(k, metric="euclidean")
    scores = cross_val_score(classifier, z.numpy(), labels.numpy(), cv=LeaveOneOut())
    assert neighbours_agreement(z, labels, 4, k) == pytest.approx(scores.mean(), abs=1e-12)


def test_clusters_that_are_apart_are_learnt_and_uniform_rows_less():
    centres = torch.eye(8, dtype=torch.float64)
    apart = centres.repeat_interleave(20, dim=0) + 0.02 * rows(160, 8)
    assert cluster_learnability(apart, clusters=8) == 1
    assert cluster_learnability(rows(300, 40), clusters=30) < 0.5
    assert np.isnan(cluster_learnability(torch.full((9, 2), torch.nan)))
    assert 0 <= cluster_learnability(rows(4, 2)) <= 1


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_dimension_of_a_cube_is_its_own_wherever_it_lies(dim):
    """TwoNN's special case, in which the ratio of the distances is Pareto's."""
    random = np.random.default_rng(0)
    cube = random.uniform(size=(2000, dim)) @ np.linalg.qr(random.normal(size=(30, 30)))[0][:dim]
    assert intrinsic_dimension(torch.from_numpy(cube)) == pytest.approx(dim, rel=0.1)


def test_the_dimension_is_the_formula_and_copies_count_once():
    z = rows(40, 4)
    distances = torch.cdist(z, z).sort(dim=1).values
    expected = 39 / (distances[:, 2] / distances[:, 1]).log().sum().item()
    assert intrinsic_dimension(z) == pytest.approx(expected, rel=1e-9)
    assert intrinsic_dimension(torch.cat([z, z[:7]])) == pytest.approx(expected, rel=1e-9)
    assert np.isnan(intrinsic_dimension(torch.ones(9, 3)))
    assert np.isnan(intrinsic_dimension(torch.full((9, 3), torch.inf)))


def test_all_readings_of_two_views():
    views = [rows(60, 8, 0), rows(60, 8, 0) + 0.3 * rows(60, 8, 1)]
    reading = label_free_reading([3 * z for z in views])
    assert set(reading) == set(READINGS)
    lens = lens_reading(views)
    for name in ("nats_below_uniform_kde", "nats_below_uniform_knn", "alignment"):
        assert reading[name] == pytest.approx(lens[name], rel=1e-9)
    assert reading["i_er"] == pytest.approx(lens["i_er_k10"], rel=1e-9)
    assert reading["rankme"] == pytest.approx(effective_rank(views[0]).item(), rel=1e-9)


def test_more_is_better_once_a_reading_is_turned():
    assert goodness("features_alpha_req", 1.2) > goodness("features_alpha_req", 0.7)
    assert goodness("train_loss", 1.0) > goodness("train_loss", 2.0)
    assert goodness("embedding_rankme", 3.0) > goodness("embedding_rankme", 2.0)


@pytest.mark.parametrize("rank", [8, 20])
def test_rounding_of_features_of_low_rank_is_no_decay(rank):
    """Directions that only rounding fills are left out by the type that the features came in."""
    torch.manual_seed(0)
    scales = torch.arange(1, rank + 1) ** -0.5
    exact = torch.randn(400, rank, dtype=torch.float64) * scales
    turned = exact @ torch.linalg.qr(torch.randn(128, rank, dtype=torch.float64))[0].T
    z = turned.float()
    expected = float(eigenspectrum_decay(turned))
    assert label_free_reading((z, z + 0.01))["alpha_req"] == pytest.approx(expected, rel=1e-3)
