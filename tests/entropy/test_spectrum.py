"""LiDAR and α-ReQ against dense float64 algebra, known spectra and scikit-learn."""

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression

from erssl.entropy import effective_rank
from erssl.entropy.spectrum import eigenspectrum_decay, lidar


def views(n=40, q=5, dim=6, noise=0.3, seed=0):
    random = np.random.default_rng(seed)
    images = random.normal(size=(n, 1, dim)) * np.linspace(0.2, 2, dim)
    return images + noise * random.normal(size=(n, q, dim)) * np.linspace(1.5, 0.5, dim)


def reference_lidar(z, delta=1e-4, eps=1e-7):
    """The paper's equations, with the symmetric root of the spread within images."""
    n, q, dim = z.shape
    means = z.mean(axis=1)
    mean = means.mean(axis=0)
    between, within = np.zeros((dim, dim)), delta * np.eye(dim)
    for i in range(n):
        between += np.outer(means[i] - mean, means[i] - mean) / n
        for j in range(q):
            within += np.outer(z[i, j] - means[i], z[i, j] - means[i]) / (n * q)
    root = np.linalg.inv(scipy.linalg.sqrtm(within).real)
    eigenvalues = np.linalg.eigvalsh(root @ between @ root)
    shares = eigenvalues / np.abs(eigenvalues).sum() + eps
    return np.exp(-(shares * np.log(shares)).sum())


@pytest.mark.parametrize("shape", [(40, 5, 6), (30, 2, 6), (12, 3, 4)])
@pytest.mark.parametrize("delta", [1e-4, 0.5])
def test_lidar_is_the_papers_formula(shape, delta):
    z = views(*shape)
    value = lidar(torch.from_numpy(z), delta).item()
    assert value == pytest.approx(reference_lidar(z, delta), rel=1e-9)
    single = lidar(torch.from_numpy(z).float(), delta)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(value, rel=1e-4)


def test_lidars_eigenvalues_are_those_of_linear_discriminant_analysis():
    """scikit-learn's, whose explained ratios are the shares of the same matrix without a ridge."""
    z = views()
    n, q, dim = z.shape
    fitted = LinearDiscriminantAnalysis(solver="eigen").fit(
        z.reshape(n * q, dim), np.repeat(range(n), q)
    )
    ratios = fitted.explained_variance_ratio_
    expected = np.exp(-(ratios * np.log(ratios)).sum())
    assert lidar(torch.from_numpy(z), delta=0.0).item() == pytest.approx(expected, rel=1e-5)


def test_lidar_sees_what_views_share_where_rankme_sees_all():
    """Directions that no two views of an image share count for RankMe and not for LiDAR."""
    random = np.random.default_rng(1)
    z = np.zeros((400, 10, 8))
    z[..., :2] = random.normal(size=(400, 1, 2))
    z[..., :2] += 0.1 * random.normal(size=(400, 10, 2))
    z[..., 2:] = random.normal(size=(400, 10, 6))
    assert lidar(torch.from_numpy(z)).item() == pytest.approx(2.0, abs=0.2)
    assert effective_rank(torch.from_numpy(z[:, 0])).item() > 7.5


def test_lidar_of_points_and_of_what_is_not_finite():
    assert lidar(torch.ones(5, 2, 3)).item() == 1
    assert lidar(torch.full((5, 2, 3), torch.nan)).isnan()
    z = torch.from_numpy(views())
    turned = z @ torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    assert lidar(turned + 7).item() == pytest.approx(
        lidar(torch.from_numpy(views())).item(), rel=1e-9
    )
    for shape in ((4, 3), (1, 2, 3), (4, 1, 3)):
        with pytest.raises(ValueError, match="at least two images in two views"):
            lidar(torch.randn(shape))


@pytest.mark.parametrize("scale", [1e4, 1e6, 1e8, 1e12])
@pytest.mark.parametrize("shape", [(64, 2, 256), (20, 3, 60), (40, 5, 6)])
def test_lidar_of_long_embeddings_does_not_depend_on_their_length(shape, scale):
    """Where d > n (q - 1) what counts is what no spread within an image reaches, by projection."""
    z = views(*shape)
    means = z.mean(axis=1)
    between, within = means - means.mean(axis=0), (z - means[:, None]).reshape(-1, shape[2])
    n, q, dim = shape
    if dim > n * (q - 1):
        reached = np.linalg.svd(within, full_matrices=False)
        basis = reached[2][reached[1] > 1e-9 * reached[1].max()]
        assert len(basis) == n * (q - 1)
        eigenvalues = np.linalg.svd(between - between @ basis.T @ basis)[1] ** 2
        shares = eigenvalues / eigenvalues.sum() + 1e-7
        expected = np.exp(-(shares * np.log(shares)).sum())
    else:
        expected = reference_lidar(z, 0.0)
    assert lidar(torch.from_numpy(scale * z)).item() == pytest.approx(expected, rel=1e-4)


def with_spectrum(alpha, count=400, dim=120):
    """Rows whose covariance has exactly the eigenvalues k^-alpha."""
    random = np.random.default_rng(0)
    centred = random.normal(size=(count, dim))
    rows = np.linalg.qr(centred - centred.mean(axis=0))[0]
    return (
        rows
        * np.arange(1, dim + 1) ** (-alpha / 2)
        @ np.linalg.qr(random.normal(size=(dim, dim)))[0]
    )


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.3])
def test_the_decay_of_a_power_law_is_its_exponent(alpha):
    z = torch.from_numpy(with_spectrum(alpha)) + 5
    assert eigenspectrum_decay(z).item() == pytest.approx(alpha, rel=1e-6)


def test_the_decay_is_a_weighted_regression_over_ranks_4_to_100():
    z = np.random.default_rng(0).normal(size=(300, 150)) * np.linspace(0.1, 3, 150)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(z.T)))[::-1]
    ranks = np.arange(4, 101)
    fit = LinearRegression().fit(
        np.log(ranks)[:, None], np.log(eigenvalues[3:100]), sample_weight=1 / ranks
    )
    assert eigenspectrum_decay(torch.from_numpy(z)).item() == pytest.approx(-fit.coef_[0], rel=1e-8)


def test_the_decay_of_few_eigenvalues():
    z = torch.randn(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert eigenspectrum_decay(z).isfinite()
    flat = torch.cat([z[:, :3], torch.zeros(30, 3)], dim=1)
    assert eigenspectrum_decay(flat).isnan()
    assert eigenspectrum_decay(torch.ones(9, 5)).isnan()
    with pytest.raises(ValueError, match="1 <= first < last"):
        eigenspectrum_decay(z, first=5, last=5)
