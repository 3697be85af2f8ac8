import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from erssl.downstream.transfer.linear_transfer import LAMBDAS
from erssl.downstream.transfer.logistic import logistic_path
from erssl.downstream.transfer.rotation import Rotation
from erssl.errors import ConfigError, DataError
from erssl.models import build_backbone

CUT = 1200  # digits to fit; the other 597 are classified
TIGHT = {"tolerance": 1e-9, "max_iter": 5000}


@pytest.fixture(scope="module")
def pixels():
    scans = load_digits()
    return torch.from_numpy(scans.data).float() / 16, torch.from_numpy(scans.target)


@pytest.fixture(scope="module")
def resnet(pixels):
    torch.manual_seed(0)
    images = F.interpolate(pixels[0].view(-1, 1, 8, 8), 32).expand(-1, 3, -1, -1)
    backbone = build_backbone("resnet18").eval()
    with torch.no_grad():
        return torch.cat([backbone(part) for part in images.split(256)]), pixels[1]


def reference(features, labels, lam):
    """scikit-learn's fit in float64, as far as its lbfgs goes: until the loss stands still."""
    model = LogisticRegression(C=1 / lam, tol=1e-9, max_iter=20000, warm_start=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features.double().numpy(), labels.numpy())


def objective(features, labels, weight, bias, lam):
    logits = features.double() @ weight.T + bias
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return float(loss + lam / 2 * weight.square().sum())


def steepest(features, labels, weight, bias, lam):
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    logits = features.double() @ weight.T + bias
    loss = F.cross_entropy(logits, labels, reduction="sum") + lam / 2 * weight.square().sum()
    return max(float(g.abs().max()) for g in torch.autograd.grad(loss, (weight, bias))) / len(
        labels
    )


def agree(fit, model, features, labels, rtol=1e-4):
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    scale = weight.abs().max()
    torch.testing.assert_close(fit.weight, weight, rtol=rtol, atol=rtol * float(scale))
    # A common number on all intercepts is no part of the model.
    centred = fit.bias - fit.bias.mean()
    near = {"rtol": 10 * rtol, "atol": rtol * float(bias.abs().max() + scale)}
    torch.testing.assert_close(centred, bias - bias.mean(), **near)
    theirs = objective(features, labels, weight, bias, fit.lam)
    assert fit.loss == pytest.approx(theirs, rel=1e-6)
    assert fit.loss == pytest.approx(
        objective(features, labels, fit.weight, fit.bias, fit.lam), rel=1e-6
    )


@pytest.mark.parametrize("source", ["pixels", "resnet"])
@pytest.mark.parametrize("lam", [1e3, 10.0, 0.1])
def test_a_fit_is_scikit_learns(request, source, lam):
    features, labels = request.getfixturevalue(source)
    model = reference(features[:CUT], labels[:CUT], lam)
    [fit] = logistic_path(features[:CUT], labels[:CUT], 10, [lam], **TIGHT)
    assert fit.converged
    assert fit.gradient_norm <= 1e-9
    agree(fit, model, features[:CUT], labels[:CUT])
    scores = model.decision_function(features[CUT:].double().numpy())
    predicted = fit.scores(features[CUT:]).argmax(dim=1)
    assert np.array_equal(predicted.numpy(), scores.argmax(axis=1))
    assert (predicted == labels[CUT:]).double().mean() > 0.3


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-9])
def test_the_gradient_is_what_the_fit_says(resnet, tolerance):
    features, labels = resnet
    for fit in logistic_path(features, labels, 10, [1e2, 1.0], tolerance=tolerance, max_iter=5000):
        norm = steepest(features, labels, fit.weight, fit.bias, fit.lam)
        assert norm <= 1.01 * tolerance
        rounding = 3e-7 if tolerance > 1e-7 else 0
        assert norm == pytest.approx(fit.gradient_norm, rel=0.02, abs=rounding)


def test_the_type_of_the_features_makes_no_difference(resnet):
    features, labels = resnet[0][:CUT], resnet[1][:CUT]
    single, double = (
        logistic_path(part, labels, 10, [1.0], **TIGHT)[0] for part in (features, features.double())
    )
    torch.testing.assert_close(single.weight, double.weight, rtol=1e-6, atol=1e-7)
    [half] = logistic_path(features.half(), labels, 10, [1.0])
    [same] = logistic_path(features.half().float(), labels, 10, [1.0])
    torch.testing.assert_close(half.weight, same.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n", [60, 511, 512, 513])
def test_fewer_images_than_dimensions(resnet, n):
    features, labels = resnet[0][:n], resnet[1][:n]
    [fit] = logistic_path(features, labels, 10, [0.1], **TIGHT)
    agree(fit, reference(features, labels, 0.1), features, labels)


def test_duplicated_and_constant_columns(pixels):
    features, labels = pixels[0][:CUT], pixels[1][:CUT]
    twice = torch.cat([features, features[:, 20:30], torch.full((CUT, 1), 7.0)], dim=1)
    [fit] = logistic_path(twice, labels, 10, [0.5], **TIGHT)
    agree(fit, reference(twice, labels, 0.5), twice, labels)
    torch.testing.assert_close(fit.weight[:, 20:30], fit.weight[:, 64:74], atol=1e-6, rtol=1e-5)
    assert fit.weight[:, -1].abs().max() < 1e-6


def test_constant_features_give_the_classes_shares(pixels):
    labels = pixels[1]
    [fit] = logistic_path(torch.full((len(labels), 32), 0.3), labels, 10, [1.0])
    shares = labels.bincount() / len(labels)
    torch.testing.assert_close(fit.bias.softmax(0).float(), shares, rtol=0, atol=1e-5)
    assert fit.weight.abs().max() < 1e-6
    assert fit.converged


@pytest.mark.parametrize("lam", [1e2, 1e-1])
def test_two_classes_are_scikit_learns_one_regression(pixels, lam):
    features, labels = pixels[0][:CUT], (pixels[1][:CUT] > 4).long()
    model = reference(features, labels, lam)
    [fit] = logistic_path(features, labels, 2, [lam], **TIGHT)
    difference = (fit.weight[1] - fit.weight[0]).numpy()
    np.testing.assert_allclose(difference, model.coef_[0], rtol=1e-4, atol=1e-4)
    assert float(fit.bias[1] - fit.bias[0]) == pytest.approx(model.intercept_[0], abs=1e-4)
    margins = features.double().numpy() @ model.coef_[0] + model.intercept_[0]
    signs = labels.numpy() * 2 - 1
    loss = np.logaddexp(0, -signs * margins).sum() + lam / 2 * (model.coef_**2).sum()
    assert fit.loss == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("lam", [1e2, 1.0])
def test_one_vs_rest_is_as_many_separate_fits(resnet, lam):
    features, digits = resnet[0][:CUT], resnet[1][:CUT]
    generator = torch.Generator().manual_seed(0)
    tags = torch.rand(20, 10, generator=generator) < torch.linspace(0.1, 0.6, 20)[:, None]
    labels = tags.T[digits].long()
    labels[torch.arange(20) * 7, torch.arange(20)] ^= 1  # tags of rare digits, and noise
    [fit] = logistic_path(features, labels, 20, [lam], **TIGHT)
    assert fit.converged
    loss = 0.0
    for column in range(20):
        model = reference(features, labels[:, column], lam)
        np.testing.assert_allclose(fit.weight[column], model.coef_[0], rtol=1e-4, atol=1e-4)
        assert float(fit.bias[column]) == pytest.approx(model.intercept_[0], abs=2e-3)
        margins = model.decision_function(features.double().numpy())
        signs = labels[:, column].numpy() * 2 - 1
        loss += np.logaddexp(0, -signs * margins).sum() + lam / 2 * (model.coef_**2).sum()
    assert fit.loss == pytest.approx(loss, rel=1e-6)


def test_the_order_of_the_path_and_its_start_make_no_difference(resnet):
    features, labels = resnet[0][:CUT], resnet[1][:CUT]
    lambdas = [100.0, 0.1, 3.0]
    down = logistic_path(features, labels, 10, lambdas, **TIGHT)
    assert [fit.lam for fit in down] == lambdas
    back = logistic_path(features, labels, 10, lambdas[::-1], **TIGHT)[::-1]
    cold = logistic_path(features, labels, 10, lambdas, warm_start=False, **TIGHT)
    turned = logistic_path(features, labels, 10, lambdas, rotation=Rotation.of(resnet[0]), **TIGHT)
    again = logistic_path(features, labels, 10, lambdas, start=down[1], **TIGHT)
    for other in (back, cold, turned, again):
        for one, two in zip(down, other, strict=True):
            torch.testing.assert_close(one.weight, two.weight, rtol=1e-4, atol=1e-5)
            assert one.loss == pytest.approx(two.loss, rel=1e-9)
    [same] = logistic_path(features, labels, 10, [0.1], start=down[1], **TIGHT)
    assert same.iterations < cold[1].iterations / 5


def test_a_path_is_shorter_than_its_fits_alone(resnet):
    lambdas = np.logspace(3, -1, 17).tolist()
    warm, cold = (
        sum(fit.iterations for fit in logistic_path(*resnet, 10, lambdas, warm_start=start))
        for start in (True, False)
    )
    assert warm < 0.9 * cold


def test_the_intercept_has_no_penalty(pixels):
    features, labels = pixels[0][:CUT], pixels[1][:CUT]
    [here] = logistic_path(features, labels, 10, [50.0], **TIGHT)
    [there] = logistic_path(features + 300, labels, 10, [50.0], **TIGHT)
    torch.testing.assert_close(here.weight, there.weight, rtol=1e-3, atol=1e-4)
    assert here.loss == pytest.approx(there.loss, rel=1e-6)


def test_the_ends_of_the_protocols_path(pixels):
    features, labels = pixels[0][:CUT], pixels[1][:CUT]
    [large, small] = logistic_path(features, labels, 10, [1e5, 1e-6], max_iter=5000)
    assert large.converged
    assert small.converged
    agree(large, reference(features, labels, 1e5), features, labels, rtol=1e-2)
    assert small.scores(features).argmax(dim=1).equal(labels)
    assert small.loss < 1


@pytest.mark.parametrize("tags", [False, True])
def test_the_whole_path_converges(resnet, tags):
    features, labels = resnet
    if tags:
        labels = (labels[:, None] >= torch.arange(1, 9)).long()
    fits = logistic_path(features, labels, 8 if tags else 10, LAMBDAS)
    assert all(fit.converged for fit in fits)
    losses = [fit.loss for fit in fits]
    assert losses == sorted(losses)
    assert max(fit.iterations for fit in fits) < 200


def test_separable_classes_end_at_the_penalised_optimum():
    features = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]])
    labels = torch.tensor([0, 0, 1, 1])
    [fit] = logistic_path(features, labels, 2, [1e-3], tolerance=1e-10)
    model = LogisticRegression(C=1e3, tol=1e-12, max_iter=10000).fit(features, labels)
    slope = float(fit.weight[1, 0] - fit.weight[0, 0])
    assert slope == pytest.approx(model.coef_[0, 0], rel=1e-4)


def test_a_penalty_that_does_not_converge_is_marked_and_named(resnet):
    features, labels = resnet
    with pytest.warns(ConvergenceWarning, match=r"λ = 0\.01 has not converged in 3 steps"):
        large, small = logistic_path(features, labels, 10, [1e5, 1e-2], max_iter=3)
    assert large.converged
    assert not small.converged
    assert small.iterations == 3
    norm = steepest(features, labels, small.weight, small.bias, 1e-2)
    assert small.gradient_norm == pytest.approx(norm, rel=0.01)


def test_classes_without_images_are_left_out(pixels):
    features, labels = pixels[0][:CUT], pixels[1][:CUT]
    held = labels != 3
    [fit] = logistic_path(features[held], labels[held], 10, [1.0], **TIGHT)
    model = reference(features[held], labels[held], 1.0)
    kept = torch.tensor([c for c in range(10) if c != 3])
    agree(
        fit._replace(weight=fit.weight[kept], bias=fit.bias[kept]),
        model,
        features[held],
        torch.searchsorted(kept, labels[held]),
    )
    assert fit.bias[3] == -torch.inf
    assert not (fit.scores(features).argmax(dim=1) == 3).any()
    [whole] = logistic_path(features, labels, 10, [1.0], start=fit, **TIGHT)
    agree(whole, reference(features, labels, 1.0), features, labels)


def test_tags_of_no_or_all_images_are_left_out(pixels):
    features, digits = pixels
    labels = torch.stack([digits < 0, digits < 5, digits >= 0], dim=1).long()
    [fit] = logistic_path(features, labels, 3, [1.0])
    [alone] = logistic_path(features, labels[:, 1:2], 1, [1.0])
    assert fit.bias[0] == -torch.inf
    assert fit.bias[2] == torch.inf
    torch.testing.assert_close(fit.weight[1], alone.weight[0])


BAD = {
    "labels that do not fit": ({"labels": torch.zeros(5).long()}, DataError, r"\(6, 4\) and"),
    "a label too large": ({"labels": torch.tensor([0, 1, 2, 3, 1, 0])}, DataError, "0 to 3 for 3"),
    "a label below 0": ({"labels": torch.tensor([0, 1, 2, -1, 1, 0])}, DataError, "from -1 to"),
    "labels that are no whole numbers": ({"labels": torch.rand(6)}, DataError, "whole numbers"),
    "tags that are not 0 or 1": ({"labels": torch.full((6, 3), 2)}, DataError, "give 0 or 1"),
    "one class": ({"labels": torch.zeros(6).long()}, DataError, "the same labels"),
    "tags alike": ({"labels": torch.ones(6, 3).long()}, DataError, "the same labels"),
    "no images": (
        {"features": torch.zeros(0, 4), "labels": torch.zeros(0).long()},
        DataError,
        "at least 1",
    ),
    "NaN": ({"features": torch.full((6, 4), torch.nan)}, DataError, "6 of 6 images are not fin"),
    "no penalty": ({"lambdas": []}, ConfigError, "no λ"),
    "a penalty of 0": ({"lambdas": [1.0, 0.0]}, ConfigError, "λ = 0;"),
    "an infinite penalty": ({"lambdas": [float("inf")]}, ConfigError, "λ = inf"),
    "no tolerance": ({"tolerance": 0.0}, ConfigError, "tolerance=0.0"),
    "no steps": ({"max_iter": 0}, ConfigError, "max_iter=0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    changes, error, match = BAD[case]
    good = {
        "features": torch.randn(6, 4),
        "labels": torch.tensor([0, 1, 2, 0, 1, 2]),
        "num_classes": 3,
        "lambdas": [1.0],
    }
    with pytest.raises(error, match=match):
        logistic_path(**good | changes)
