"""Features that stay on disk: the same numbers, restart, damage, and a disk that is full."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn
from torch.nn import functional as F

import erssl
from erssl.errors import ConfigError, DataError, ErsslError
from erssl.evaluation import (
    Features,
    StoredFeatures,
    StoredRows,
    cached_features,
    knn_scores,
    stored_features,
)
from erssl.evaluation.classifier import ClassifierOptions
from erssl.evaluation.linear_on_features import train_linear
from erssl.evaluation.lloyd import cluster, lloyd, nearest_centres
from erssl.evaluation.plausibility import neighbours
from erssl.evaluation.rows import in_memory
from erssl.evaluation.storage import dtype_for, storage_for

from . import counting
from .counting import SHARD, Counting, N, shards


class Backbone(Counting):
    """One that tells how wide its features are."""

    feature_dim = 6


@pytest.fixture
def backbone():
    return Backbone()


def take(backbone, images, cache_dir, function=stored_features, **changes):
    """Features, and how many images the backbone saw for them."""
    return counting.take(function, backbone, images, cache_dir, preprocessing={}, **changes)


def test_they_are_those_in_memory_rounded_to_half(backbone, images, tmp_path):
    exact, _ = take(backbone, images, None, cached_features)
    stored, seen = take(backbone, images, tmp_path)
    assert seen == N and isinstance(stored.features, StoredRows)
    assert torch.equal(in_memory(stored.features), exact.features.half().float())
    assert torch.equal(stored.labels, exact.labels)
    steps = []
    again, seen = take(backbone, images, tmp_path, progress=lambda *step: steps.append(step))
    assert seen == 0 and steps[-1] == (N, N)
    assert torch.equal(in_memory(again.features), in_memory(stored.features))


def test_float32_shards_that_are_there_are_read(backbone, images, tmp_path):
    exact, _ = take(backbone, images, tmp_path, cached_features)
    stored, seen = take(backbone, images, tmp_path)
    assert seen == 0
    assert torch.equal(in_memory(stored.features), exact.features)


def test_a_kill_and_a_damaged_shard_cost_their_shards_only(backbone, images, tmp_path):
    expected, _ = take(backbone, images, None, cached_features, dtype="float16")
    backbone._breaks_at = 20  # amid the third shard
    with pytest.raises(KeyboardInterrupt):
        take(backbone, images, tmp_path)
    backbone._breaks_at = None
    stored, seen = take(backbone, images, tmp_path)
    assert seen == N - 2 * SHARD
    assert torch.equal(in_memory(stored.features), expected.features)
    del stored
    content = bytearray(shards(tmp_path)[2].read_bytes())
    content[-5] ^= 1
    shards(tmp_path)[2].write_bytes(content)
    with pytest.warns(UserWarning, match="00002.*checksum differs"):
        stored, seen = take(backbone, images, tmp_path)
    assert seen == SHARD
    assert torch.equal(in_memory(stored.features), expected.features)


def test_what_float16_cannot_hold_is_kept_in_float32(backbone, images, tmp_path):
    exact, _ = take(backbone, images, None, cached_features)
    for factor in (1e6, 1e-13):
        with torch.no_grad():
            backbone[1].weight *= factor
            backbone[1].bias *= factor
        backbone[2] = nn.Identity()
        exact, _ = take(backbone, images, None, cached_features)
        with pytest.warns(UserWarning, match="5 of 5 shards .* too large or too small for float16"):
            stored, _ = take(backbone, images, tmp_path)
        assert torch.equal(in_memory(stored.features), exact.features)
        again, seen = take(backbone, images, tmp_path)
        assert seen == 0 and torch.equal(in_memory(again.features), exact.features)
    with pytest.raises(DataError, match="float16 cannot hold"):
        backbone[1].weight.data *= 1e12
        take(backbone, images, tmp_path, dtype="float16")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_ends_in_a_sentence_and_keeps_what_is_there(
    backbone, images, tmp_path, monkeypatch, code
):
    written, write = [], Path.write_bytes

    def limited(self, content):
        written.append(self)
        if len(written) > 3:  # about.json, two shards, and half of the next
            write(self, content[: len(content) // 2])
            raise OSError(code, os.strerror(code))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", limited)
    with pytest.raises(DataError, match=f"cannot be kept .*{os.strerror(code)}.*make room"):
        take(backbone, images, tmp_path)
    monkeypatch.undo()
    assert len(shards(tmp_path)) == 2
    assert take(backbone, images, tmp_path)[1] == N - 2 * SHARD


def test_a_disk_without_room_is_found_before_the_work(backbone, images, tmp_path, monkeypatch):
    free = shutil._ntuple_diskusage(1, 1, N * 6 * 2 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(DataError, match=r"need 444 bytes in .*, where 443 bytes are free"):
        take(backbone, images, tmp_path)
    assert not backbone.seen


def test_a_folder_that_cannot_be_made_is_named(backbone, images, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be kept .*Not a directory"):
        take(backbone, images, tmp_path / "file")


def test_two_processes_share_the_shards(backbone, images, tmp_path):
    first, seen = take(backbone, images, tmp_path, share=(0, 2))
    assert seen == 21 and len(first.labels) == 21
    _, seen = take(backbone, images, tmp_path, share=(1, 2))
    assert seen == N - 21
    whole, seen = take(backbone, images, tmp_path)
    assert seen == 0 and len(whole.labels) == N


def test_the_storage_is_told_by_the_memory():
    images, width = 1_281_167 + 50_000, 2048
    assert storage_for("auto", images, width, memory=32 * 2**30) == "disk"
    assert storage_for("auto", images, width, memory=64 * 2**30) == "memory"
    assert storage_for("auto", 60_000, 512, memory=2 * 2**30) == "memory"
    assert storage_for("auto", images, None, memory=1) == "memory"
    assert storage_for("disk", 3, 2) == "disk"
    assert storage_for("memory", images, width, memory=1) == "memory"
    with pytest.raises(ConfigError, match="features_storage=ram"):
        storage_for("ram", 3, 2)
    assert dtype_for("auto", "memory") == "float32"
    assert dtype_for("auto", "disk") == "auto"
    assert dtype_for("float16", "memory") == "float16"


# ---- what protocols make of them


def clouds(n, width=16, classes=5, seed=0):
    """Rounded to half, so that both ways have the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    labels = torch.randint(classes, (n,), generator=generator)
    rows = centres[labels] + 1.5 * torch.randn(n, width, generator=generator)
    half = rows.half()
    return Features(half.float(), labels), StoredFeatures(StoredRows(half.split(97)), labels)


@pytest.mark.parametrize("k", [1, 20])
def test_knn_is_that_of_memory_to_the_bit(k, monkeypatch):
    (held, stored), (asked, stored_asked) = clouds(700), clouds(90, seed=1)
    held.features[50:80] = held.features[0]  # ties, also beyond the neighbours that are spare
    half = held.features.half()
    stored = StoredFeatures(StoredRows(half.split(97)), held.labels)
    monkeypatch.setattr("erssl.evaluation.knn._BLOCK", 64)
    monkeypatch.setattr("erssl.evaluation.knn._QUERIES", 32)
    expected = knn_scores(held, asked, 5, k)
    assert torch.equal(knn_scores(stored, stored_asked, 5, k), expected)
    unit = F.normalize(held.features.double(), dim=1)
    similar = F.normalize(asked.features.double(), dim=1) @ unit.T
    # an image whose k-th neighbour has no equal has the votes of the definition
    ordered = similar.sort(dim=1, descending=True)
    sure = ordered.values[:, k - 1] - ordered.values[:, k] > 1e-5
    votes = torch.zeros(len(asked.labels), 5, dtype=torch.float64)
    weights = (ordered.values[:, :k] / 0.1).exp()
    votes.scatter_add_(1, held.labels[ordered.indices[:, :k]], weights)
    votes /= weights[:, :1]
    assert sure.sum() > 50
    torch.testing.assert_close(expected.double()[sure], votes[sure], atol=1e-4, rtol=1e-4)


def test_a_layer_learns_the_same_from_files():
    (held, stored), (asked, stored_asked) = clouds(500), clouds(90, seed=1)
    options = ClassifierOptions(epochs=2, batch_size=32)
    expected = train_linear(held, asked, 5, options)
    actual = train_linear(stored, stored_asked, 5, options)
    assert torch.equal(actual.scores, expected.scores)
    assert actual.history == expected.history


def test_large_sets_are_compared_by_the_sample(monkeypatch):
    (held, stored), (asked, stored_asked) = clouds(400), clouds(90, seed=1)
    assert neighbours(stored, stored_asked, 5) == neighbours(held, asked, 5)
    monkeypatch.setattr("erssl.evaluation.plausibility.MOST_VOTERS", 100)
    monkeypatch.setattr("erssl.evaluation.plausibility.MOST_ASKED", 40)
    compared = neighbours(stored, stored_asked, 5)
    assert (compared.k, compared.images) == (100, 40)
    assert neighbours(held, asked, 5).images == 90


def test_lloyds_steps_are_scikit_learns():
    held, stored = clouds(600, width=8)
    unit = F.normalize(held.features.double(), dim=1)
    first = unit[:7].clone()
    theirs = KMeans(7, init=first.numpy(), n_init=1, algorithm="lloyd").fit(unit.numpy())
    ours = lloyd(stored.features, first)
    assert ours.iterations > 3
    np.testing.assert_allclose(ours.centres.numpy(), theirs.cluster_centers_, atol=1e-5)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-4)
    assert nearest_centres(stored.features, ours.centres).tolist() == theirs.labels_.tolist()


def test_a_centre_without_rows_moves_to_the_farthest_row():
    rows = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, -1]]).half()
    stored = StoredRows(rows.split(2))
    ours = lloyd(stored, torch.tensor([[1.0, 0], [0, 1], [9, 9]]))
    assert sorted(nearest_centres(stored, ours.centres).tolist()) == [0, 0, 1, 1, 2]


def test_the_best_start_is_taken():
    held, stored = clouds(400, width=8)
    one, many = (cluster(stored.features, 5, starts, 3) for starts in (1, 4))
    assert many.inertia <= one.inertia
    unit = F.normalize(held.features.double(), dim=1).numpy()
    theirs = KMeans(5, n_init=10, random_state=0).fit(unit).inertia_
    assert many.inertia == pytest.approx(theirs, rel=0.02)


@pytest.mark.parametrize("command", ["knn", "linear", "kmeans"])
def test_a_command_on_disk_says_what_it_says_in_memory(command, tmp_path, monkeypatch):
    monkeypatch.setenv("ERSSL_HOME", str(tmp_path / "home"))
    options = {"checkpoint": "pixels", "data": "digits", "plots": False}
    options |= {"feature_batch_size": 256, "data.num_workers": 0, "data.image_size": 8}
    if command == "linear":
        options |= {"mode": "cached", "epochs": 2, "preset": "lightly"}
    run = getattr(erssl, command)
    held = run(run_dir=tmp_path / "held", features_dtype="float16", **options)
    stored = run(run_dir=tmp_path / "a", features_storage="disk", cache=False, **options)
    assert stored.metrics["accuracy" if command == "kmeans" else "top1"] == pytest.approx(
        held.metrics["accuracy" if command == "kmeans" else "top1"],
        abs=0.2 if command == "kmeans" else 0,
    )
    assert stored.results["config"]["features_storage"] == "disk"
    assert held.results["config"]["features_storage"] == "memory"
    assert not (tmp_path / "a" / "features").exists()


def test_an_evaluation_without_a_place_for_features_ends_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ErsslError, match="cannot be kept"):
        erssl.knn(
            checkpoint="random:resnet18_cifar",
            data="digits",
            features_storage="disk",
            cache_dir=str(tmp_path / "file"),
            run_dir=tmp_path / "run",
        )
