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


def held_out_criterion(fit, held, delta, eta):
    """Score matching on the sphere of the euclidean estimate, by loops and finite differences."""
    kernel = np.exp((fit @ fit.T - 1) / delta)
    system = kernel + eta * np.eye(len(fit))
    inverse = np.linalg.inv(system)
    s = -inverse @ (kernel.sum(axis=1)[:, None] * fit / delta)
    sigma = len(fit) / np.trace(inverse)

    def field(b):  # its radial part is left out: it is of no account on the sphere
        return -(np.exp((fit @ b - 1) / delta) @ s) / sigma

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


def test_the_factor_is_that_of_the_smallest_criterion_on_held_out_rows():
    for around in (0.0, 0.6, 1.5):
        z = unit_rows(24, 4, dtype=torch.float64, around=around)
        median, eta = median_bandwidth(z), 0.5
        even, odd = z[0::2].numpy(), z[1::2].numpy()
        losses = []
        for scale in SCALES:
            delta = scale * median.item()
            ridge = eta * np.exp(-1 / delta)
            folds = ((even, odd), (odd, even))
            losses.append(sum(held_out_criterion(*fold, delta, ridge) for fold in folds))
        best = SCALES[int(np.argmin(losses))]
        assert auto_bandwidth_scale(z, median, eta, "euclidean").item() == best
        chosen = stein_score(z, eta=eta, bandwidth_scale="auto")
        expected = stein_score(z, eta=eta, bandwidth_scale=best)
        torch.testing.assert_close(chosen, expected, rtol=1e-12, atol=0)


@both_geometries
def test_views_have_a_factor_each(geometry):
    views = torch.stack([unit_rows(64, 6, seed, torch.float64, 0.8 * seed) for seed in (0, 1, 2)])
    options = {"eta": "auto", "geometry": geometry, "bandwidth_scale": "auto"}
    together = stein_score(views, **options)
    alone = torch.stack([stein_score(view, **options) for view in views])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


def test_a_known_score_is_met_no_worse_than_by_the_median():
    """Of peaked rows, whose kernel the median makes too wide or too narrow."""
    errors = {}
    for rule in ("auto", *SCALES):
        total = 0.0
        for seed in range(3):
            z, score = vmf_with_score(40.0, 128, 8, seed)
            own = stein_score(z, eta="auto", geometry="sphere", bandwidth_scale=rule).double()
            own = own - (own * z.double()).sum(1, keepdim=True) * z.double()
            total += ((own - torch.as_tensor(score)) ** 2).sum().item()
        errors[rule] = total
    assert errors["auto"] <= 1.05 * errors[1.0]
    assert errors["auto"] <= 1.3 * min(errors[scale] for scale in SCALES)


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
