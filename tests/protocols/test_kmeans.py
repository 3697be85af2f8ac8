"""``erssl kmeans``: clusters against brute force, and the command."""

import itertools

import numpy as np
import pytest
import torch

import erssl
from erssl.errors import ConfigError
from erssl.evaluation import Features
from erssl.protocols.kmeans import assign_clusters, clustering_metrics


def test_the_matching_is_the_best_of_all():
    generator = torch.Generator().manual_seed(0)
    for clusters, classes in ((4, 4), (3, 4), (5, 3)):
        assigned = torch.randint(clusters, (60,), generator=generator)
        labels = torch.randint(classes, (60,), generator=generator)
        if clusters <= classes:
            ways = [dict(enumerate(p)) for p in itertools.permutations(range(classes), clusters)]
        else:
            chosen = itertools.permutations(range(clusters), classes)
            ways = [{c: label for label, c in enumerate(p)} for p in chosen]
        best = max(
            sum(way.get(int(a)) == int(b) for a, b in zip(assigned, labels, strict=True)) / 60
            for way in ways
        )
        metrics, predicted = clustering_metrics(assigned, labels, clusters, classes)
        assert metrics["accuracy"] == pytest.approx(best)
        if clusters <= classes:
            assert (predicted == labels).double().mean() == pytest.approx(best)


def test_information_and_rand_index_are_those_of_their_definitions():
    assigned = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    labels = torch.tensor([1, 1, 0, 0, 0, 2, 2, 1])
    metrics, _ = clustering_metrics(assigned, labels, 3, 3)
    joint = np.zeros((3, 3))
    np.add.at(joint, (assigned.numpy(), labels.numpy()), 1 / 8)
    p, q = joint.sum(1), joint.sum(0)
    there = joint > 0
    information = (joint[there] * np.log(joint[there] / np.outer(p, q)[there])).sum()
    entropies = [-(x * np.log(x)).sum() for x in (p, q)]
    assert metrics["nmi"] == pytest.approx(information / np.mean(entropies))
    pairs = list(itertools.combinations(range(8), 2))
    same = [[bool(x[i] == x[j]) for i, j in pairs] for x in (assigned, labels)]
    both, a, b = (np.sum(np.logical_and(*same)), np.sum(same[0]), np.sum(same[1]))
    chance = a * b / len(pairs)
    assert metrics["ari"] == pytest.approx((both - chance) / ((a + b) / 2 - chance))


def test_clouds_are_found_whatever_their_length():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(20)
    centres = torch.eye(3, 8)
    noise = 0.05 * torch.randn(60, 8, generator=generator)
    lengths = torch.rand(60, 1, generator=generator) * 10 + 0.1
    features = Features((centres[labels] + noise) * lengths, labels)
    assigned = assign_clusters(features, features, 3, starts=2, seed=0)
    metrics, predicted = clustering_metrics(assigned, labels, 3, 3)
    assert metrics == {"accuracy": 1.0, "nmi": pytest.approx(1), "ari": pytest.approx(1)}
    assert torch.equal(predicted, labels)


def test_the_command_clusters_pixels(tmp_path):
    run_dir = tmp_path / "run"
    small = {"data.num_workers": 0, "data.image_size": 8, "cache": False, "starts": 1}
    result = erssl.kmeans("pixels", "digits", run_dir=run_dir, quiet=True, **small)
    assert result.results["protocol"] == "kmeans" and set(result.metrics) == {
        "accuracy",
        "nmi",
        "ari",
    }
    assert 0.6 < result.metrics["nmi"] < 0.85  # 0.74 of the raw scans, all at once
    assert "accuracy" in (run_dir / "report.md").read_text()
    with pytest.raises(ConfigError, match="clusters of at least 2"):
        erssl.kmeans("pixels", "digits", clusters=1)
    with pytest.raises(ConfigError, match="clusters=2000 is more than the 1437 training images"):
        erssl.kmeans("pixels", "digits", clusters=2000, quiet=True, **small)
    with pytest.raises(ConfigError, match=r"preset.* is unknown"):
        erssl.kmeans("pixels", "digits", preset="mveb")
