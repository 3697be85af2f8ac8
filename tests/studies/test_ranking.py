"""Kendall's τ over pairs of runs, against scipy and loops."""

import itertools

import numpy as np
import pytest
from scipy.stats import kendalltau

from erssl.studies.ranking import ReadRun, rank_readings, tau_over_pairs


def orders(n=25, seed=0):
    random = np.random.default_rng(seed)
    first = random.normal(size=n).round(1)  # with ties
    return first, (first + random.normal(size=n)).round(1)


def test_over_all_pairs_it_is_scipys():
    first, second = orders()
    tau = tau_over_pairs(first, second, np.ones((25, 25), dtype=bool))
    assert tau.value == pytest.approx(kendalltau(first, second).statistic, rel=1e-12)
    assert tau.pairs == 300


def test_its_bootstrap_is_scipys_over_the_same_draws():
    """Copies of a run are ties of both orders, which τ-b leaves out."""
    first, second = orders()
    tau = tau_over_pairs(first, second, np.ones((25, 25), dtype=bool))
    drawn = np.random.default_rng(0).integers(0, 25, size=(400, 25))
    sample = [kendalltau(first[rows], second[rows]).statistic for rows in drawn]
    assert (tau.low, tau.high) == pytest.approx(np.quantile(sample, (0.05, 0.95)), rel=1e-9)


def test_over_some_pairs_it_is_a_count():
    first, second = orders()
    group = np.arange(25) % 3
    agree = one = two = 0
    for i, j in itertools.combinations(range(25), 2):
        if group[i] == group[j]:
            a, b = np.sign(first[i] - first[j]), np.sign(second[i] - second[j])
            agree, one, two = agree + a * b, one + abs(a), two + abs(b)
    tau = tau_over_pairs(first, second, np.equal.outer(group, group))
    assert tau.value == pytest.approx(agree / np.sqrt(one * two), rel=1e-12)


def test_an_order_of_equals_has_none():
    tau = tau_over_pairs([1, 1, 1], [1, 2, 3], np.ones((3, 3), dtype=bool))
    assert np.isnan(tau.value)


def runs():
    """Two methods and two settings; rankme orders within a method alone, alignment in all."""
    made = []
    for m, (method, base) in enumerate((("a", 0.0), ("b", 0.5))):
        for setting in ("s", "t"):
            for i in range(4):
                accuracy = base + 0.1 * i + (5 if setting == "t" else 0)
                readings = {
                    "features_rankme": 10.0 * i - 100 * m,
                    "features_alignment": accuracy if setting == "s" else accuracy - 5,
                    "train_loss": -accuracy,
                    "features_cluster_learnability": accuracy,
                    "features_intrinsic_dimension": 2 * accuracy,
                }
                made.append(ReadRun(f"{method}{setting}{i}", method, setting, accuracy, readings))
    return made


def test_runs_are_compared_within_a_setting_and_methods_told_apart():
    ranked = {each.name: each for each in rank_readings(runs())}
    assert ranked["features_rankme"].within.value == 1
    assert ranked["features_rankme"].across.value == -1
    assert ranked["features_alignment"].every.value == 1  # though it is lower at the other setting
    assert ranked["train_loss"].every.value == 1
    assert ranked["features_clid"].every.value == 1
    assert ranked["features_rankme"].within.pairs == 4 * 6
    assert ranked["features_rankme"].across.pairs == 2 * 16


def test_a_reading_that_is_not_finite_is_left_out():
    some = [*runs()[:3], ReadRun("x", "a", "s", 0.1, {"features_rankme": float("nan")})]
    ranked = {each.name: each for each in rank_readings(some)}
    assert ranked["features_rankme"].runs == 3
