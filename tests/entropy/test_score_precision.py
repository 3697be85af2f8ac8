"""The score in float32 and float64, in parts and as a whole, of a batch of views."""

import pytest
import torch

from erssl.entropy import median_bandwidth, stein_score

from .test_stein_score import (
    both_geometries,
    reference_bandwidth,
    relative_error,
    unit_rows,
)


@pytest.mark.parametrize("around", [0.0, 0.1, 0.3, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize(("count", "dim"), [(300, 1000), (700, 64), (1500, 300)])
def test_float32_is_kept_only_where_it_is_good_enough(count, dim, twins, around):
    z = unit_rows(count, dim, around=around)
    if twins:  # near-copies: a badly conditioned kernel at any bandwidth
        z[count // 2 :] = z[: count - count // 2] + 1e-4 * unit_rows(count - count // 2, dim, 1)
        z = torch.nn.functional.normalize(z, dim=1)
    assert relative_error(stein_score(z), stein_score(z.double()).numpy()) < 5e-4


@pytest.mark.parametrize("bandwidth", [0.1, 1.0])
@pytest.mark.parametrize("eta", [1e-3, 0.01, 0.1])
@pytest.mark.parametrize("case", ["low rank", "near pair", "clusters"])
def test_float32_is_not_trusted_where_a_few_rows_or_the_ridge_decide(case, eta, bandwidth):
    # A small ridge that float32 would have to raise, kernels of quickly falling spectrum, and
    # scores that sit on two of many rows.
    z = unit_rows(256, 2) if case == "low rank" else unit_rows(700, 512)
    if case == "near pair":
        z[0] = z[1] + 1e-3 * unit_rows(1, 512, 1)[0]
    if case == "clusters":
        z = unit_rows(20, 512)[torch.arange(700) % 20] + 0.3 * z
    z = torch.nn.functional.normalize(z, dim=1)
    options = {"bandwidth": bandwidth, "eta": eta}
    expected = stein_score(z.double(), **options).numpy()
    assert relative_error(stein_score(z, **options), expected) < 5e-4


def test_float32_is_not_trusted_where_products_may_be_of_half_precision(monkeypatch):
    z = unit_rows(60, 128)
    exact = stein_score(z.double()).float()
    assert not torch.equal(stein_score(z), exact)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert torch.equal(stein_score(z), exact)


@both_geometries
@pytest.mark.parametrize(("bandwidth", "eta"), [(None, 1e-12), (10.0, 1e-12), (1e-3, 0.0)])
def test_a_ridge_below_what_float64_resolves_stays_finite(bandwidth, eta, geometry):
    for around in (0.0, 3.0):
        z = unit_rows(300, 2, around=around)
        assert stein_score(z, bandwidth, eta, geometry).isfinite().all()


def test_a_row_that_is_not_a_number_is_not_hidden():
    z = unit_rows(300, 16)
    z[7] = float("nan")
    assert stein_score(z).isnan().all()


def test_the_bandwidth_of_rows_that_carry_a_gradient_is_detached():
    z = unit_rows(20, 8)
    bandwidth = median_bandwidth(z.requires_grad_())
    assert not bandwidth.requires_grad
    assert torch.equal(bandwidth, median_bandwidth(z.detach()))
    assert median_bandwidth(z.bfloat16()).dtype == torch.float32


def test_the_bandwidth_of_many_ties_is_the_median():
    # four orthogonal directions: three quarters of the distances are 1, the others 0
    z = torch.eye(4).repeat(350, 1)
    assert median_bandwidth(z).item() == 1.0
    assert median_bandwidth(torch.eye(2).repeat(700, 1)).item() == pytest.approx(0.1)


def test_spread_rows_are_solved_in_float32_and_near_collapsed_ones_in_float64(monkeypatch):
    solved = []
    original = torch.linalg.cholesky_ex

    def counted(matrix):
        solved.append(matrix.dtype)
        return original(matrix)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", counted)
    stein_score(unit_rows(200, 512))
    assert set(solved) == {torch.float32}
    stein_score(unit_rows(200, 512, around=10.0))
    assert set(solved) == {torch.float32, torch.float64}


@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 257, 800, 1200])
def test_the_bandwidth_in_parts_is_the_median_to_the_last_entry(count):
    z = unit_rows(count, 32, dtype=torch.float64)
    assert median_bandwidth(z).item() == pytest.approx(reference_bandwidth(z.numpy()), rel=1e-12)


def test_a_bandwidth_whose_sample_misleads_is_still_the_median():
    # The rows that the sample skips lie elsewhere: none of its bracket holds the median.
    z = unit_rows(1200, 16, dtype=torch.float64)
    z[0::8] = unit_rows(1, 16, 1, dtype=torch.float64)
    z[2::2] = -z[2::2]
    assert median_bandwidth(z).item() == pytest.approx(reference_bandwidth(z.numpy()), rel=1e-12)


@both_geometries
@pytest.mark.parametrize("shrink_to", ["zero", "vmf"])
@pytest.mark.parametrize("eta", [0.01, "auto"])
@pytest.mark.parametrize("count", [5, 300])
def test_a_batch_of_views_has_the_scores_of_each(count, eta, geometry, shrink_to):
    views = torch.stack([unit_rows(count, 16, seed, torch.float64, seed / 2) for seed in range(3)])
    options = {"eta": eta, "geometry": geometry, "shrink_to": shrink_to}
    each = [stein_score(z, **options) for z in views]
    assert stein_score(views, **options).sub(torch.stack(each)).abs().max() < 1e-9


@both_geometries
@pytest.mark.parametrize("shrink_to", ["zero", "vmf"])
def test_columns_are_those_of_the_whole(geometry, shrink_to):
    z = unit_rows(300, 12, dtype=torch.float64, around=0.2)
    options = {"geometry": geometry, "shrink_to": shrink_to, "eta": 5.0}
    part = stein_score(z, columns=slice(3, 7), **options)
    torch.testing.assert_close(part, stein_score(z, **options)[:, 3:7])


@both_geometries
@pytest.mark.parametrize("views", [None, 3])
def test_whole_matrices_as_on_a_gpu_give_the_same_scores(monkeypatch, views, geometry):
    z = torch.stack([unit_rows(400, 24, seed, torch.float64) for seed in range(views or 1)])
    z = z if views else z[0]
    in_parts = stein_score(z, geometry=geometry)
    monkeypatch.setattr("erssl.entropy._triangle.is_cut", lambda matrix: False)
    torch.testing.assert_close(stein_score(z, geometry=geometry), in_parts, rtol=1e-8, atol=1e-8)
