"""Whitened features: the map beside scikit-learn's, where the truth is known, and at its edges."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

import erssl
from erssl.cli.main import main
from erssl.errors import ConfigError, DataError
from erssl.evaluation import (
    Features,
    StoredFeatures,
    StoredRows,
    fit_whitening,
    knn_accuracy,
    knn_scores,
    whitened,
)
from erssl.evaluation.whitening import check_whitening
from erssl.models import BackboneOptions
from erssl.protocols.evaluation import Evaluation
from erssl.run.summary import collect

from ..cli.test_pretrain import TINY, results_of


def correlated(count, width, seed=0, dtype=torch.float32):
    """Rows of a random covariance, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    rows = torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix + 30
    return rows.to(dtype), mix.T @ mix


def labelled(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Features(rows, torch.randint(0, 3, (len(rows),), generator=generator))


@pytest.mark.parametrize(("count", "width"), [(20_000, 5), (300, 40), (30, 64), (3, 8), (2, 4)])
def test_the_map_is_the_inverse_root_of_scikit_learns_correlations(count, width):
    rows, _ = correlated(count, width, dtype=torch.float64)
    rows[:, 1] *= 1e4  # one dimension that is far larger
    mean, matrix, share = fit_whitening(rows)
    standard = StandardScaler().fit(rows.numpy())
    correlations, expected = ledoit_wolf(standard.transform(rows.numpy()))
    assert share == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert torch.allclose(mean, rows.mean(0), rtol=1e-12)
    if expected == 0:  # two rows: a line, outside of which there is nothing
        root = fractional_matrix_power(np.linalg.pinv(correlations, hermitian=True), 0.5).real
    else:
        root = fractional_matrix_power(correlations, -0.5)
    expected = root / standard.scale_[:, None]
    np.testing.assert_allclose(matrix.numpy(), expected, rtol=1e-6, atol=1e-9 * abs(root).max())


def test_cosines_are_those_of_the_true_density():
    rows, covariance = correlated(200_000, 6, dtype=torch.float64)
    white, _ = whitened(labelled(rows), labelled(rows[:1]))
    some = (rows[:400] - 30) @ torch.linalg.cholesky(torch.linalg.inv(covariance))
    expected = F.normalize(some) @ F.normalize(some).T
    unit = F.normalize(white.features[:400])
    assert (unit @ unit.T - expected).abs().max() < 0.03
    assert (white.features.mean(0)).abs().max() < 1e-9
    assert torch.allclose(torch.cov(white.features.T), torch.eye(6, dtype=torch.float64), atol=0.01)


def test_neighbours_are_those_of_scikit_learns_principal_components():
    rows, _ = correlated(50_000, 5, dtype=torch.float64)
    train, val = labelled(rows[:49_000]), labelled(rows[49_000:], seed=1)
    components = PCA(whiten=True).fit(train.features.numpy())
    expected = [
        Features(torch.from_numpy(components.transform(each.features.numpy())), each.labels)
        for each in (train, val)
    ]
    votes = knn_scores(*whitened(train, val), 3, 20)
    assert (votes.argmax(1) == knn_scores(*expected, 3, 20).argmax(1)).float().mean() > 0.995


def test_classes_apart_in_a_direction_of_little_variance_are_found():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4_000) % 2
    rows = torch.randn(4_000, 10, generator=generator) * torch.tensor([0.02] + [10.0] * 9)
    rows[:, 0] += 0.2 * labels
    train, val = Features(rows[:3_000], labels[:3_000]), Features(rows[3_000:], labels[3_000:])
    assert knn_accuracy(train, val, 2, 200) < 0.6
    assert knn_accuracy(*whitened(train, val), 2, 200) > 0.85


def test_scale_and_offset_of_features_do_not_count():
    rows, _ = correlated(2_000, 12)
    train, val = labelled(rows[:1_500]), labelled(rows[1_500:])
    moved = [Features(each.features * 64 - 5, each.labels) for each in (train, val)]
    one, other = knn_scores(*whitened(train, val), 3), knn_scores(*whitened(*moved), 3)
    assert torch.allclose(one, other, rtol=1e-3)


def test_features_that_are_all_the_same_stay_without_neighbours():
    same = labelled(torch.full((50, 4), 7.0))
    white, one = whitened(same, labelled(torch.ones(1, 4)))
    assert not white.features.any() and not one.features.any()
    votes = knn_scores(white, one, 3, k=10)
    assert votes.isfinite().all()
    single, _ = whitened(labelled(torch.ones(1, 4)), same)
    assert not single.features.any()


def test_a_dimension_that_never_changes_counts_for_nothing():
    rows, _ = correlated(3_000, 4, dtype=torch.float64)
    train, val = labelled(rows[:2_500]), labelled(rows[2_500:])
    wider = [
        Features(F.pad(part.features, (0, 1), value=0.1), part.labels) for part in (train, val)
    ]
    white, _ = whitened(*wider)
    assert not white.features[:, 4].any()
    assert torch.allclose(white.features[:, :4], whitened(train, val)[0].features)


def test_features_that_are_not_finite_read_zero_as_without_whitening():
    rows, _ = correlated(100, 4)
    rows[3, 1] = torch.nan
    train, val = labelled(rows), labelled(correlated(20, 4, seed=1)[0])
    assert knn_accuracy(*whitened(train, val), 3, 10) == 0 == knn_accuracy(train, val, 3, 10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_features_in_files_become_files(tmp_path, dtype):
    rows, _ = correlated(20_000, 6, dtype=dtype)
    train, val = labelled(rows[:19_000]), labelled(rows[19_000:])
    stored = [
        StoredFeatures(StoredRows([each.features[:500], each.features[500:]]), each.labels)
        for each in (train, val)
    ]
    held = whitened(train, val)
    for expected, found in zip(held, whitened(*stored, tmp_path / "own"), strict=True):
        assert isinstance(found.features, StoredRows) and found.features.dtype == torch.float32
        assert torch.equal(found.features[0 : len(found.labels)], expected.features)
        assert torch.equal(found.labels, expected.labels)
    with pytest.raises(ConfigError, match="need a folder"):
        whitened(*stored)
    with pytest.raises(DataError, match="leave whiten out"):
        (tmp_path / "file").touch()
        whitened(*stored, tmp_path / "file" / "below")


def test_what_hardly_changes_in_training_may_change_by_more_than_float16_holds(tmp_path):
    rows, _ = correlated(1_000, 6, dtype=torch.float16)
    rows[:, 0] = 1.0
    rows[0, 0] = 1 + 2**-10
    rows[-1, 0] = 100.0
    stored = [
        StoredFeatures(StoredRows([r]), torch.zeros(len(r))) for r in (rows[:900], rows[900:])
    ]
    _, val = whitened(*stored, tmp_path / "own")
    values = val.features[0:100]
    assert values.isfinite().all() and values.abs().max() > 65504


def test_a_disk_without_room_is_said_before_it_is_filled(tmp_path, monkeypatch):
    rows, _ = correlated(100, 6, dtype=torch.float16)
    stored = StoredFeatures(StoredRows([rows]), torch.zeros(100))
    room = SimpleNamespace(free=100 * 6 * 4 - 1)
    monkeypatch.setattr("erssl.evaluation.whitening.shutil.disk_usage", lambda _: room)
    with pytest.raises(DataError, match=r"need 2 KiB in .*own .*No space left"):
        whitened(stored, stored, tmp_path / "own")
    assert not list((tmp_path / "own").iterdir())
    room.free += 1
    white, _ = whitened(stored, stored, tmp_path / "own")
    assert white.features.shape == (100, 6)


def test_no_published_number_stands_beside_whitened_features(monkeypatch):
    data = erssl.data.default_options("cifar10")
    counts = data.published
    evaluation = object.__new__(Evaluation)
    evaluation.protocol, evaluation.settings = "knn", None
    evaluation.datasets = SimpleNamespace(
        num_classes=counts.classes, train=range(counts.train), val=range(counts.val)
    )
    architecture = BackboneOptions("resnet18", cifar_stem=True)
    network = SimpleNamespace(architecture=architecture)
    evaluation.subject = SimpleNamespace(data=data, backbone=network)
    setting = {"k": 200, "temperature": 0.1}
    assert evaluation._published(setting)
    assert evaluation._published({**setting, "whiten": True}) is None


def test_whitening_that_does_not_fit_ends_a_pretraining_before_it_trains(tmp_path, monkeypatch):
    def refuse(count, width):
        raise ConfigError(f"{width} dimensions")

    monkeypatch.setattr("erssl.protocols.pretrain_preparation.check_whitening", refuse)
    run = tmp_path / "run"
    assert main(["pretrain", *TINY, "evaluation.whiten=true", f"run_dir={run}"]) == 2
    assert not run.exists()


def test_a_run_that_goes_on_may_leave_whitening_out(tmp_path):
    run = tmp_path / "run"
    short = ["trainer.limit_train_batches=1", "epochs=1", "lens.probe_size=0"]
    assert main(["pretrain", *TINY, *short, "evaluation.whiten=true", f"run_dir={run}"]) == 0
    (run / "results.json").unlink()
    assert main(["pretrain", f"run_dir={run}", "resume=true", "evaluation.whiten=false"]) == 0
    assert "knn_whitened_top1" not in results_of(run)["metrics"]


def test_correlations_that_do_not_fit_are_refused_before_any_work(tmp_path):
    options = {"checkpoint": "pixels", "data": "digits", "data.image_size": 224, "whiten": True}
    with pytest.raises(ConfigError, match="Whitening of 150,528 dimensions"):
        erssl.knn(run_dir=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_few_rows_need_no_room_for_whole_blocks(monkeypatch):
    """Four matrices and three blocks of the rows that there are."""
    need = 8 * 6 * (4 * 6 + 3 * 100)
    monkeypatch.setattr("erssl.limits.main_memory", lambda: need)
    check_whitening(100, 6)
    with pytest.raises(ConfigError, match="Whitening of 6 dimensions"):
        check_whitening(10_000_000, 6)


def test_the_command_reads_what_the_functions_read(tmp_path, monkeypatch):
    monkeypatch.setenv("ERSSL_HOME", str(tmp_path / "home"))
    scans = erssl.data.load_datasets(erssl.data.default_options("digits"))
    options = {"checkpoint": "pixels", "data": "digits", "data.image_size": 8, "whiten": True}
    options |= {"data.num_workers": 0}
    held = erssl.knn(run_dir=tmp_path / "held", **options)
    disk = erssl.knn(run_dir=tmp_path / "disk", features_storage="disk", cache=False, **options)
    plain = erssl.knn(run_dir=tmp_path / "plain", **{**options, "whiten": False})
    assert disk.metrics == held.metrics != plain.metrics
    assert not (tmp_path / "disk" / "features").exists()
    assert "| top1 (k=200, whitened) |" in (tmp_path / "held" / "report.md").read_text()
    assert "| top1 (k=200) |" in (tmp_path / "plain" / "report.md").read_text()
    pixels = [
        Features(
            torch.stack([torch.from_numpy(np.array(image)).float().flatten() for image, _ in part]),
            torch.from_numpy(np.array(erssl.data.labels_of(part))),
        )
        for part in (scans.train, scans.val)
    ]
    grey = [Features(each.features[:, ::3], each.labels) for each in pixels]  # three equal channels
    expected = knn_accuracy(*whitened(*grey), 10)
    assert held.metrics["top1"] == pytest.approx(expected, abs=0.02)


def test_a_pretraining_ends_with_both_kinds_of_neighbours(tmp_path, capsys):
    run = tmp_path / "run"
    short = ["trainer.limit_train_batches=3", "epochs=1", "lens.probe_size=0"]
    overrides = [*TINY, *short, "method=simclr", "evaluation.whiten=true"]
    assert main(["pretrain", *overrides, f"run_dir={run}"]) == 0
    metrics = results_of(run)["metrics"]
    again = erssl.knn(checkpoint=run, run_dir=tmp_path / "knn", whiten=True, cache=False)
    assert metrics["knn_whitened_top1"] == pytest.approx(again.metrics["top1"], abs=0.01)
    assert metrics["untrained_knn_whitened_top1"] > 0.2
    last = capsys.readouterr().out.split("whitened", 1)[1]
    assert f"{metrics['knn_whitened_top1']:.1%}" in last
    assert "| knn_whitened_top1 (k=200) |" in (run / "report.md").read_text()
    lines = {line["protocol"]: line for line in collect([run]).entries}
    for protocol, metric in (
        ("kNN at the end of pretraining", "knn_top1"),
        ("kNN of whitened features at the end of pretraining", "knn_whitened_top1"),
        ("kNN of whitened features before training", "untrained_knn_whitened_top1"),
    ):
        assert lines[protocol]["top1"] == metrics[metric]
        assert "whitened_top1" not in lines[protocol]
