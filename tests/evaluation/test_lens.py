"""What the lens reads, against float64 loops, scipy and closed forms."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import ive
from scipy.stats import entropy as scipy_entropy

from erssl.evaluation import lens_reading


def rows(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def log_normalizer(dim, kappa):
    order = dim / 2 - 1
    log_bessel = math.log(ive(order, kappa)) + kappa
    return order * math.log(kappa) - dim / 2 * math.log(2 * math.pi) - log_bessel


@pytest.mark.parametrize("kappa", [2.0, 10.0])
def test_reading_equals_loops_over_the_formulas(kappa):
    n, d = 6, 4
    views = [rows(n, d) * 3, rows(n, d, seed=1)]  # of any norm
    reading = lens_reading(views, kappas=(kappa,))
    z = [(v / v.norm(dim=1, keepdim=True)).numpy() for v in views]
    log_c = log_normalizer(d, kappa)
    entropy, infonce = 0.0, 0.0
    for v in range(2):
        for i in range(n):
            kernel = [math.exp(log_c + kappa * z[v][i] @ z[v][j]) for j in range(n) if j != i]
            entropy -= math.log(sum(kernel) / (n - 1)) / (2 * n)
            others = [math.exp(kappa * z[v][i] @ z[1 - v][j]) for j in range(n)]
            positive = math.exp(kappa * z[v][i] @ z[1 - v][i])
            infonce += (math.log(positive / sum(others)) + math.log(n)) / (2 * n)
    reconstruction = np.mean([log_c + kappa * z[0][i] @ z[1][i] for i in range(n)])
    assert reading[f"entropy_k{kappa:g}"] == pytest.approx(entropy)
    assert reading[f"reconstruction_k{kappa:g}"] == pytest.approx(reconstruction)
    assert reading[f"i_er_k{kappa:g}"] == pytest.approx(entropy + reconstruction)
    assert reading[f"infonce_k{kappa:g}"] == pytest.approx(infonce)
    assert reading["log_n"] == pytest.approx(math.log(n))
    assert reading["log_sphere_area"] == pytest.approx(math.log(2 * math.pi**2))  # of S^3


def test_discrete_part_equals_scipy():
    logits = [rows(20, 5) * 2, rows(20, 5, seed=1) * 2]
    reading = lens_reading([rows(20, 3), rows(20, 3, seed=1)], logits)
    p = [F.softmax(x, dim=1).numpy() for x in logits]
    marginal = np.mean([scipy_entropy(v.mean(axis=0)) for v in p])
    cross = np.mean(
        [
            [scipy_entropy(a[i]) + scipy_entropy(a[i], b[i]) for i in range(20)]
            for a, b in (p, p[::-1])
        ]
    )
    assert reading["discrete_entropy"] == pytest.approx(marginal)
    assert reading["discrete_reconstruction"] == pytest.approx(-cross)
    assert reading["discrete_i_er"] == pytest.approx(marginal - cross)
    assert reading["log_k"] == pytest.approx(math.log(5))


def test_ceilings_are_reached_and_not_passed():
    uniform = [rows(3000, 8), rows(3000, 8, seed=1)]
    reading = lens_reading(uniform, kappas=(1.0,))
    assert reading["entropy_k1"] == pytest.approx(reading["log_sphere_area"], abs=0.01)
    same = lens_reading([torch.eye(64), torch.eye(64)], kappas=(1000.0,))
    assert same["infonce_k1000"] == pytest.approx(math.log(64))
    one_hot = 1e3 * torch.eye(16)
    reading = lens_reading([torch.eye(16)] * 2, [one_hot] * 2)
    assert reading["discrete_i_er"] == pytest.approx(math.log(16))


def test_a_single_point_reads_as_the_floor():
    point = rows(1, 8).repeat(10, 1)
    reading = lens_reading([point, point], [torch.zeros(10, 4)] * 2, kappas=(10.0,))
    assert reading["entropy_k10"] == pytest.approx(-(10 + log_normalizer(8, 10)))
    assert reading["i_er_k10"] == pytest.approx(0, abs=1e-9)
    assert reading["infonce_k10"] == pytest.approx(0, abs=1e-9)
    assert reading["effective_rank"] == pytest.approx(1, rel=1e-4)
    assert reading["spread"] == pytest.approx(0, abs=1e-9)
    assert reading["discrete_i_er"] == pytest.approx(0, abs=1e-6)  # logits in float32


def test_views_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        lens_reading([rows(4, 3), rows(5, 3)])
