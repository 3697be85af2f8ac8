"""The path of penalties on features in files against the one in memory and scikit-learn."""

import os

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from erssl.downstream.transfer import logits
from erssl.downstream.transfer.linear_transfer import constant_features, linear_probe
from erssl.downstream.transfer.logistic import logistic_path
from erssl.downstream.transfer.rotation import Rotation
from erssl.errors import DataError
from erssl.evaluation import Features, StoredFeatures, StoredRows
from erssl.evaluation.rows import selected

N, D, C = 230, 12, 4
PENALTIES = (0.3, 3.0, 30.0)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(logits, "_BLOCK", 37)


@pytest.fixture
def both(tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(C, (N,), generator=generator)
    centres = torch.randn(C, D, generator=generator)
    rows = (centres[labels] + 1.5 * torch.randn(N, D, generator=generator) + 3).half()
    stored = StoredRows(rows.split(50), folder=tmp_path)
    return Features(rows.float(), labels), StoredFeatures(stored, labels)


def close(actual, expected, atol):
    torch.testing.assert_close(actual.weight, expected.weight, atol=atol, rtol=0)
    torch.testing.assert_close(actual.bias, expected.bias, atol=atol * 20, rtol=0)


@pytest.mark.parametrize("files", [False, True], ids=["logits in memory", "logits in files"])
@pytest.mark.parametrize("tolerance", [1e-5, 1e-8], ids=["float32", "float64"])
def test_the_path_is_that_of_memory_and_of_scikit_learn(both, tolerance, files, monkeypatch):
    held, stored = both
    if files:
        monkeypatch.setattr(logits, "_SMALL", 0)
    options = {"num_classes": C, "lambdas": PENALTIES, "tolerance": tolerance}
    expected = logistic_path(*held, **options)
    actual = logistic_path(*stored, **options)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.converged and ours.gradient_norm <= tolerance
        close(ours, theirs, 1e-2 if tolerance == 1e-5 else 1e-4)
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    if tolerance == 1e-8:
        x = held.features.double().numpy()
        for fit, lam in zip(actual, PENALTIES, strict=True):
            model = LogisticRegression(C=1 / lam, tol=1e-8, max_iter=5000).fit(x, held.labels)
            np.testing.assert_allclose(fit.weight, model.coef_, atol=1e-4)
            scores = fit.scores(stored.features, torch.float64)
            np.testing.assert_allclose(scores.softmax(dim=1), model.predict_proba(x), atol=1e-5)


@pytest.mark.parametrize("tolerance", [1e-5, 1e-9])
def test_a_few_steps_end_where_those_in_memory_do(both, tolerance):
    held, stored = both
    options = {"num_classes": C, "lambdas": PENALTIES[:2], "tolerance": tolerance, "max_iter": 4}
    with pytest.warns(UserWarning, match="not converged"):
        expected = logistic_path(*held, **options)
        actual = logistic_path(*stored, **options)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.iterations == theirs.iterations == 4
        close(ours, theirs, 2e-4)


def test_one_vs_rest_is_that_of_memory(both):
    held, stored = both
    marks = torch.stack([held.labels < 2, held.labels % 2 == 0], dim=1).long()
    options = {"num_classes": 2, "lambdas": PENALTIES, "tolerance": 1e-8}
    expected = logistic_path(held.features, marks, **options)
    actual = logistic_path(stored.features, marks, **options)
    for ours, theirs in zip(actual, expected, strict=True):
        close(ours, theirs, 1e-4)


def test_the_protocol_is_that_of_memory(both):
    held, stored = both
    cuts = [torch.arange(start, stop) for start, stop in ((0, 120), (120, 180), (180, N))]

    def top1(scores, labels):
        return float((scores.argmax(dim=1) == labels).double().mean())

    ours, theirs = (
        linear_probe(
            *(selected(each, cut) for cut in cuts), C, top1, lambdas=PENALTIES, tolerance=1e-8
        )
        for each in (stored, held)
    )
    assert (ours.lam, ours.val_metric, ours.notes) == (theirs.lam, theirs.val_metric, theirs.notes)
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=0)


def test_fewer_images_than_dimensions(both):
    held, stored = both
    some = torch.tensor([0, 3, 7, 9, 11, 20, 41, 60])
    options = {"num_classes": C, "lambdas": [1.0], "tolerance": 1e-8}
    [theirs] = logistic_path(*selected(held, some), **options)
    [ours] = logistic_path(*selected(stored, some), **options)
    close(ours, theirs, 1e-4)


def test_axes_and_constants_are_those_of_memory(both):
    held, stored = both
    ours, theirs = Rotation.of(stored.features), Rotation.of(held.features)
    torch.testing.assert_close(ours.centre, theirs.centre)
    spread = ((held.features.double() - ours.centre) @ ours.basis.double()).var(dim=0)
    expected = torch.linalg.eigvalsh(torch.cov(held.features.double().T))
    torch.testing.assert_close(spread, expected, rtol=1e-4, atol=1e-6)
    held.features[:, 3] = 5
    rows = StoredRows(held.features.half().split(60))
    assert constant_features(rows) == constant_features(held.features) == 1


def test_features_that_are_not_finite_are_named(both):
    _, stored = both
    rows = torch.cat(list(stored.features.split(100))).half()
    rows[[5, 200], 1] = torch.inf
    with pytest.raises(DataError, match="features of 2 of 230 images are not finite"):
        logistic_path(StoredRows(rows.split(50)), stored.labels, C, [1.0])


def test_a_disk_without_room_for_the_logits_is_a_sentence(both, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logits, "_SMALL", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"needs 14 KiB in .* \(No space left on device\)"):
        logistic_path(*both[1], C, [1.0])


def test_the_files_of_logits_leave_no_name(both, monkeypatch, tmp_path):
    monkeypatch.setattr(logits, "_SMALL", 0)
    logistic_path(*both[1], C, [1.0], tolerance=1e-4)
    assert not list(tmp_path.iterdir())
