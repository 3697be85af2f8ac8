import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from erssl.downstream.transfer.linear_transfer import LAMBDAS, constant_features, linear_probe
from erssl.downstream.transfer.logistic import logistic_path
from erssl.errors import ConfigError, DataError
from erssl.evaluation import Features

FEW = (1e-2, 1.0, 1e2, 1e4)


def top1(scores, labels):
    return float((scores.argmax(dim=1) == labels).double().mean())


@pytest.fixture(scope="module")
def parts():
    scans = load_digits()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(scans.data), 64, generator=generator)
    features, labels = torch.from_numpy(scans.data).float() / 16 + noise, scans.target
    labels = torch.from_numpy(labels)
    cuts = (slice(0, 300), slice(300, 600), slice(600, None))
    return [Features(features[cut], labels[cut]) for cut in cuts]


def test_the_path_is_the_protocols():
    assert len(LAMBDAS) == 45
    np.testing.assert_allclose(LAMBDAS, np.logspace(-6, 5, 45), rtol=1e-12)


def test_the_protocol_is_what_scikit_learn_gives_step_by_step(parts):
    train, val, test = ([part.features.double().numpy(), part.labels.numpy()] for part in parts)
    probe = linear_probe(*parts, 10, top1, lambdas=FEW, tolerance=1e-8)
    assert [point.lam for point in probe.path] == list(FEW)

    def fitted(lam, x, y):
        return LogisticRegression(C=1 / lam, tol=1e-8, max_iter=20000).fit(x, y)

    values = [fitted(lam, *train).score(*val) for lam in FEW]
    assert [point.val_metric for point in probe.path] == pytest.approx(values)
    assert probe.lam == FEW[int(np.argmax(values))]
    assert probe.val_metric == pytest.approx(max(values))
    both = [np.concatenate(pair) for pair in zip(train, val, strict=True)]
    model = fitted(probe.lam, *both)
    assert top1(probe.scores, parts[2].labels) == pytest.approx(model.score(*test))
    np.testing.assert_allclose(probe.fit.weight, model.coef_, rtol=1e-3, atol=1e-4)
    assert probe.notes == []
    assert (probe.dimensions, probe.constant) == (64, 0)


def test_of_equal_penalties_the_largest_is_chosen(parts):
    assert linear_probe(*parts, 10, lambda *_: 0.5, lambdas=FEW).lam == 1e4


def test_several_labels_a_image(parts):
    tags = [
        Features(part.features, torch.stack([part.labels < 5, part.labels % 2 == 0], 1).long())
        for part in parts
    ]

    def right(scores, labels):
        return float(((scores > 0) == labels).double().mean())

    probe = linear_probe(*tags, 2, right, lambdas=FEW)
    both = [torch.cat(pair) for pair in zip(*tags[:2], strict=True)]
    [fit] = logistic_path(*both, 2, [probe.lam])
    torch.testing.assert_close(probe.fit.weight, fit.weight, rtol=1e-3, atol=1e-3)
    assert 0.6 < right(probe.scores, tags[2].labels) < 1


def test_fewer_images_than_dimensions_and_a_class_that_only_val_has(parts):
    generator = torch.Generator().manual_seed(1)
    lift = torch.randn(64, 800, generator=generator)
    train, val, test = (Features(part.features @ lift, part.labels) for part in parts)
    train = Features(train.features[train.labels != 7], train.labels[train.labels != 7])
    probe = linear_probe(train, val, test, 10, top1, lambdas=FEW)
    assert probe.fit.bias.isfinite().all()
    both = [torch.cat(pair) for pair in zip(train, val, strict=True)]
    [fit] = logistic_path(*both, 10, [probe.lam])
    assert probe.fit.loss == pytest.approx(fit.loss, rel=1e-3)


def test_constant_features_are_said(parts):
    blind = [Features(torch.full((len(part.labels), 8), 0.1), part.labels) for part in parts]
    probe = linear_probe(*blind, 10, top1, lambdas=FEW)
    assert probe.constant == 8
    assert "All 8 features are constant over the 300 training images" in probe.notes[0]
    partly = [
        Features(torch.cat([part.features, one.features], 1), part.labels)
        for part, one in zip(parts, blind, strict=True)
    ]
    probe = linear_probe(*partly, 10, top1, lambdas=FEW)
    assert probe.notes == ["8 of 72 features are constant over the 300 training images."]


def test_rounding_does_not_hide_a_constant():
    features = torch.full((50, 3), 5.0)
    features[::2, 0] = torch.nextafter(features[0, 0], torch.tensor(6.0))
    features[::2, 1] = 0.0
    features[:, 2] = 0.0
    assert constant_features(features) == 2


def test_fits_that_do_not_converge_are_said(parts):
    lambdas = (1e-2, 1.0, 1e6)
    with pytest.warns(UserWarning, match="has not converged in 5 steps"):
        probe = linear_probe(*parts, 10, top1, lambdas=lambdas, max_iter=5, tolerance=1e-4)
    assert [point.converged for point in probe.path] == [False, False, True]
    assert probe.notes[0] == "Not converged at λ = 1, 0.01."
    assert "train" in probe.notes[1]


def changed(parts, place, **changes):
    return [part._replace(**changes) if i == place else part for i, part in enumerate(parts)]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_bad_parts_are_refused(parts, place):
    name = ("training", "validation", "test")[place]
    labels = parts[place].labels
    with pytest.raises(DataError, match=f"{name} labels run from 0 to 10 for 10 classes"):
        linear_probe(*changed(parts, place, labels=labels + (labels == 9)), 10, top1)
    features = parts[place].features.clone()
    features[3] = torch.inf
    with pytest.raises(DataError, match=f"{name} features of 1 of"):
        linear_probe(*changed(parts, place, features=features), 10, top1)
    with pytest.raises(DataError, match="one backbone and one data set"):
        linear_probe(*changed(parts, place, features=features[:, :5].clamp(max=1)), 10, top1)


def test_bad_metrics_and_penalties_are_refused(parts):
    with pytest.raises(DataError, match="is nan at λ = 10000"):
        linear_probe(*parts, 10, lambda *_: float("nan"), lambdas=FEW)
    with pytest.raises(ConfigError, match="no λ"):
        linear_probe(*parts, 10, top1, lambdas=())
