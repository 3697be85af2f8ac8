"""The bandwidth as a factor of the median, given or chosen by score matching."""

import numpy as np
import pytest
import torch

from erssl.entropy import median_bandwidth, stein_score
from erssl.entropy.ridge import auto_bandwidth_scale

from .test_stein_score import (
    both_geometries,
    reference_bandwidth,
    reference_score,
    relative_error,
    unit_rows,
    vmf_with_score,
)

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)


@both_geometries
@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
def test_a_factor_multiplies_the_median(scale, geometry):
    z = unit_rows(80, 12, around=0.4)
    delta = scale * reference_bandwidth(z.double().numpy())
    expected = reference_score(z, 0.3, geometry, delta)
    computed = stein_score(z, eta=0.3, geometry=geometry, bandwidth_scale=scale)
    assert relative_error(computed, expected) < 1e-4


def held_out_criterion(fit, held, delta, eta, geometry):
    """Score matching on the sphere of an estimate, by loops and finite differences."""
    kernel = np.exp((fit @ fit.T - 1) / delta)
    dim = fit.shape[1]

    def gradient(b, of_kernel):  # beside its part along b
        if geometry == "euclidean":
            return np.zeros(dim)
        return -(of_kernel * (fit @ b / delta + dim - 1)) @ fit

    own = [k.sum() * a / delta + gradient(a, k) for a, k in zip(fit, kernel, strict=True)]
    inverse = np.linalg.inv(kernel + eta * np.eye(len(fit)))
    s = -inverse @ np.stack(own)
    sigma = len(fit) / np.trace(inverse)

    def field(b):  # its radial part is left out: it is of no account on the sphere
        of_kernel = np.exp((fit @ b - 1) / delta)
        return -(of_kernel @ s + gradient(b, of_kernel)) / sigma

    total, step = 0.0, 1e-5
    for b in held:
        value = field(b)
        total += 0.5 * (value @ value - (value @ b) ** 2)
        basis = np.linalg.svd(b[None])[2][1:]  # of the tangent space
        for direction in basis:
            ahead, behind = (np.cos(step) * b + sign * np.sin(step) * direction for sign in (1, -1))
            tangential = [field(x) - (field(x) @ x) * x for x in (ahead, behind)]
            total += (tangential[0] - tangential[1]) @ direction / (2 * step)
    return total


def best_scale(z, eta, geometry):
    """The factor of the smallest criterion, with ``"auto"`` at its best candidate ridge."""
    median = reference_bandwidth(z.numpy())
    even, odd = z[0::2].numpy(), z[1::2].numpy()
    losses = []
    for scale in SCALES:
        delta = scale * median
        ridges = [len(even) ** 0.5 * 3.0**j for j in range(-7, 6)]
        if eta != "auto":
            ridges = [eta * np.exp(-1 / delta)]
        folds = ((even, odd), (odd, even))
        losses.append(
            min(sum(held_out_criterion(*f, delta, r, geometry) for f in folds) for r in ridges)
        )
    return SCALES[int(np.argmin(losses))]


CASES = {  # rows, dimensions, seed, how peaked, and the ridge
    "euclidean": [
        *((24, 4, 0, around, eta) for around in (0.0, 0.6, 1.5) for eta in (1e-4, 0.01, 0.5)),
        (24, 4, 1, 0.6, 0.01),
    ],
    "sphere": [(24, 4, 0, 0.0, 0.01), (24, 4, 2, 1.5, 0.5), (24, 4, 0, 0.6, 0.5)],
}


@both_geometries
def test_the_factor_is_that_of_the_smallest_criterion_on_held_out_rows(geometry):
    factors = set()
    for count, dim, seed, around, eta in CASES[geometry]:
        z = unit_rows(count, dim, seed, torch.float64, around)
        best = best_scale(z, eta, geometry)
        assert auto_bandwidth_scale(z, median_bandwidth(z), eta, geometry).item() == best
        factors.add(best)
    assert factors == {"euclidean": {0.25, 0.5, 4.0}, "sphere": {0.25, 2.0, 4.0}}[geometry]


def test_the_factor_of_a_ridge_that_is_chosen_too_is_that_of_the_smallest_criterion():
    for seed, geometry, expected in ((0, "sphere", 0.5), (0, "euclidean", 0.25)):
        z = unit_rows(64, 6, seed, torch.float64)
        chosen = auto_bandwidth_scale(z, median_bandwidth(z), "auto", geometry).item()
        assert chosen == best_scale(z, "auto", geometry) == expected


@both_geometries
def test_views_have_a_factor_each_and_the_score_of_that_bandwidth(geometry):
    views = [unit_rows(24, 4, seed, torch.float64, around) for seed, around in ((0, 0), (2, 1.5))]
    views.append(unit_rows(24, 4, 2, torch.float64))
    scales = [best_scale(view, 0.5, geometry) for view in views]
    assert len(set(scales)) > 1
    options = {"eta": 0.5, "geometry": geometry, "bandwidth_scale": "auto"}
    together = stein_score(torch.stack(views), **options)
    for view, scale, score in zip(views, scales, together, strict=True):
        delta = scale * reference_bandwidth(view.numpy())
        expected = reference_score(view, 0.5, geometry, delta)
        assert relative_error(score, expected) < 1e-9
        assert relative_error(stein_score(view, **options), expected) < 1e-9


@pytest.mark.parametrize(
    ("kappa", "eta", "factor"), [(40.0, "auto", 4.0), (40.0, 0.01, 0.25), (1.0, 0.01, 0.25)]
)
def test_a_known_score_is_met_no_worse_than_by_the_median(kappa, eta, factor):
    """Of peaked rows, whose kernel the median makes too wide or too narrow."""
    errors = {}
    for rule in ("auto", *SCALES):
        total = 0.0
        for seed in range(3):
            z, score = vmf_with_score(kappa, 128, 8, seed)
            own = stein_score(z, eta=eta, geometry="sphere", bandwidth_scale=rule).double()
            own = own - (own * z.double()).sum(1, keepdim=True) * z.double()
            total += ((own - torch.as_tensor(score)) ** 2).sum().item()
        errors[rule] = total
    assert errors["auto"] <= 1.05 * errors[1.0]
    assert errors["auto"] <= 1.3 * min(errors[scale] for scale in SCALES)
    assert errors["auto"] == errors[factor]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bandwidth_scale": 0.0}, "bandwidth_scale must be a factor above 0 or 'auto' but is 0.0"),
        ({"bandwidth_scale": "median"}, "but is 'median'"),
        ({"bandwidth": 0.5, "bandwidth_scale": 2.0}, "takes its place"),
        ({"kernel": "imq"}, "must be 'vmf' or 'rbf' but is 'imq'"),
        ({"kernel": "rbf", "geometry": "sphere"}, "knows no sphere"),
        ({"kernel": "rbf", "eta": "auto"}, "numbers for eta"),
        ({"kernel": "rbf", "shrink_to": "vmf"}, "knows no sphere"),
        ({"kernel": "rbf", "bandwidth_scale": "auto"}, "numbers for eta"),
    ],
)
def test_options_that_make_no_score_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        stein_score(unit_rows(8, 3), **options)
