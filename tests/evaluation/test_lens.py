"""What the lens reads, against float64 loops, scipy and closed forms."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import ive
from scipy.stats import entropy as scipy_entropy

from erssl.entropy import kde_entropy, knn_entropy, sphere_log_area
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
    uniform = [rows(1000, 8), rows(1000, 8, seed=1)]
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


def test_embeddings_that_died_read_as_a_point_and_tiny_ones_as_they_lie():
    point, dead = rows(1, 8).repeat(10, 1), torch.zeros(10, 8)
    alive = [rows(10, 8), rows(10, 8, seed=1)]
    tiny = [1e-30 * z.float() for z in alive]
    for given, expected in (([dead, dead], [point, point]), (tiny, alive)):
        reading, wanted = lens_reading(given), lens_reading(expected)
        for name in wanted:
            # the rank is of rows with rounding, singular values of 1e-8 and less
            assert reading[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-5), name


def test_views_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        lens_reading([rows(4, 3), rows(5, 3)])


def clusters(n, d, count, seed, noise=1e-3):
    """Two views that are independent given one of ``count`` tight clusters: I = log count."""
    generator = torch.Generator().manual_seed(seed)
    means = F.normalize(torch.randn(count, d, generator=generator, dtype=torch.float64), dim=1)
    which = torch.randint(count, (n,), generator=generator)
    step = noise * torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return list(means[which] + step)


def test_nats_below_uniform_are_those_of_each_view_for_itself():
    views = [F.normalize(rows(40, 6, seed) + torch.eye(6)[0], dim=1) for seed in (0, 1)]
    reading = lens_reading(views)
    for name, estimate in (
        ("nats_below_uniform_kde", lambda z: kde_entropy(z, "best")),
        ("nats_below_uniform_knn", lambda z: knn_entropy(z, 3)),
    ):
        expected = np.mean([estimate(z).item() for z in views]) - sphere_log_area(6)
        assert reading[name] == pytest.approx(expected)
    # both views in one heap would make each row its other view's neighbour
    both = knn_entropy(torch.cat([views[0], views[0] + 1e-9]), 1).item() - sphere_log_area(6)
    assert both < reading["nats_below_uniform_knn"] - 20


def test_few_images_and_points_have_what_can_be_read():
    two = lens_reading([rows(2, 5), rows(2, 5, seed=1)])
    assert "nats_below_uniform_kde" not in two
    assert math.isfinite(two["nats_below_uniform_knn"])
    point = rows(1, 8).repeat(10, 1)
    reading = lens_reading([point, point])
    assert reading["nats_below_uniform_kde"] == reading["nats_below_uniform_knn"] == -math.inf
    assert reading["mean_cosine"] == pytest.approx(1)


@pytest.mark.parametrize(("count", "information"), [(1000, math.log(1000)), (100, math.log(100))])
def test_infonce_is_a_lower_bound_and_i_er_an_estimate_that_may_pass_the_truth(count, information):
    read = [lens_reading(clusters(256, 128, count, seed)) for seed in range(8)]
    mean = {name: np.mean([r[name] for r in read]) for name in read[0]}
    for kappa in ("k3", "k10", "k30"):
        assert mean[f"infonce_{kappa}"] <= min(information, math.log(256)) + 1e-9
    # so it must not be called a bound: about 21 at 1000 clusters, 6.2 at 100
    assert mean["i_er_k30"] > information + 1


def test_infonce_of_independent_views_is_below_zero():
    # a lower bound of 0 in expectation; three standard errors of eight readings
    read = [lens_reading([rows(256, 16, s), rows(256, 16, s + 100)]) for s in range(8)]
    for kappa in ("k3", "k10", "k30"):
        values = [r[f"infonce_{kappa}"] for r in read]
        assert np.mean(values) < 3 * np.std(values) / math.sqrt(8)


def test_the_discrete_sum_is_a_lower_bound():
    # outcomes that agree in two views of one of 20 classes: I(Z1; W2) = log 20 at the most
    reads = []
    for seed in range(20):
        which = torch.randint(20, (64,), generator=torch.Generator().manual_seed(seed))
        logits = 30 * F.one_hot(which, 20).double()
        embeddings = [rows(64, 4, seed), rows(64, 4, seed + 50)]
        reads.append(lens_reading(embeddings, [logits, logits])["discrete_i_er"])
    assert math.log(20) - 0.4 < np.mean(reads) < math.log(20)


def test_the_reading_at_a_fixed_kappa_hardly_leaves_its_ceiling_and_may_pass_it():
    pull = torch.zeros(128, dtype=torch.float64)
    pull[0] = 40
    cone = lens_reading([rows(256, 128) + pull, rows(256, 128, 1) + pull])
    assert cone["entropy_k10"] > cone["log_sphere_area"] - 10
    assert cone["nats_below_uniform_kde"] < -100
    sharp = lens_reading([rows(256, 32), rows(256, 32, 1)], kappas=(30.0,))
    assert sharp["entropy_k30"] > sharp["log_sphere_area"] + 0.5
