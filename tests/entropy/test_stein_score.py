"""The Stein score: dense float64 linear algebra, closed forms, memory."""

import itertools
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from erssl.entropy import entropy_from_score, median_bandwidth, stein_score

GEOMETRIES = ("euclidean", "sphere")
both_geometries = pytest.mark.parametrize("geometry", GEOMETRIES)


def unit_rows(count, dim, seed=0, dtype=torch.float32, around=0.0):
    """Uniform rows, or rows that crowd round one direction the more, the larger ``around``."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, dim, generator=generator, dtype=torch.float64) + around
    return torch.nn.functional.normalize(z, dim=1).to(dtype)


def reference_bandwidth(z):
    distances = (1 - z @ z.T).ravel()
    middle = (len(distances) - 1) // 2  # the lower of the two middle values of an even count
    return max(0.1, np.partition(distances, middle)[middle])


def reference_score(z, eta=0.01, geometry="euclidean", bandwidth=None):
    """S = -(K + eta I)^-1 G on the un-normalised kernel, in float64, G row by row."""
    z = np.asarray(z, dtype=np.float64)
    count, dim = z.shape
    delta = reference_bandwidth(z) if bandwidth is None else bandwidth
    kernel = np.exp(z @ z.T / delta)
    right_side = np.empty_like(z)
    for i in range(count):
        if geometry == "euclidean":
            right_side[i] = kernel[i].sum() * z[i] / delta
        else:
            # sum_m k_im [(z_i - (z_i·z_m) z_m)/delta - (d-1) z_m], the sum over m as a product
            along = kernel[i] * (z @ z[i] / delta + dim - 1)
            right_side[i] = kernel[i].sum() * z[i] / delta - along @ z
    return -np.linalg.solve(kernel + eta * np.eye(count), right_side)


def relative_error(computed, expected):
    return np.linalg.norm(computed.double().numpy() - expected) / np.linalg.norm(expected)


# The formula ----------------------------------------------------------------------------------

# The promise for float32 input; float64 inside leaves 3e-8, the rounding of the result.
FORMULA_TOLERANCE = 1e-4


@both_geometries
@pytest.mark.parametrize("eta", [0.01, 0.3, 10.0])
@pytest.mark.parametrize(("count", "dim"), [(2, 2), (33, 8), (200, 64), (50, 300), (600, 16)])
def test_float32_equals_the_dense_float64_formula(count, dim, eta, geometry):
    z = unit_rows(count, dim)
    expected = reference_score(z, eta, geometry)
    computed = stein_score(z, eta=eta, geometry=geometry)
    assert computed.dtype == torch.float32
    assert relative_error(computed, expected) < FORMULA_TOLERANCE


@both_geometries
@pytest.mark.parametrize("eta", [0.01, 1.0])
@pytest.mark.parametrize("dim", [8, 64])
def test_the_formula_holds_beyond_1024_rows(dim, eta, geometry):
    # Up to 1024 rows the solve may be in float64; batches of 4096 are the papers' own.
    z = unit_rows(1100, dim)
    expected = reference_score(z, eta, geometry)
    assert relative_error(stein_score(z, eta=eta, geometry=geometry), expected) < FORMULA_TOLERANCE


@both_geometries
def test_float64_equals_the_dense_formula_to_rounding(geometry):
    z = unit_rows(64, 12, dtype=torch.float64)
    computed = stein_score(z, geometry=geometry)
    assert computed.dtype == torch.float64
    # condition number of the system ~ 64 / 0.004 = 2e4, times eps
    assert relative_error(computed, reference_score(z, 0.01, geometry)) < 1e-10


@both_geometries
@pytest.mark.parametrize("bandwidth", [0.15, 0.7, 3.0])
def test_a_given_bandwidth_replaces_the_median(geometry, bandwidth):
    z = unit_rows(40, 10)
    expected = reference_score(z, 0.01, geometry, bandwidth)
    computed = stein_score(z, bandwidth=bandwidth, geometry=geometry)
    assert relative_error(computed, expected) < FORMULA_TOLERANCE


@both_geometries
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_are_computed_in_float32_or_better(geometry, dtype):
    z = unit_rows(60, 16, dtype=dtype)
    expected = reference_score(z.double(), 0.01, geometry)
    computed = stein_score(z, geometry=geometry)
    assert computed.dtype == torch.float32
    assert relative_error(computed, expected) < FORMULA_TOLERANCE


@both_geometries
@pytest.mark.parametrize("count", [60, 1100])
def test_autocast_does_not_change_the_score(geometry, count):
    z = unit_rows(count, 64)
    expected = reference_score(z, 1.0, geometry)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = stein_score(z, eta=1.0, geometry=geometry)
    assert relative_error(computed, expected) < FORMULA_TOLERANCE


@both_geometries
def test_the_score_is_detached_and_the_input_left_as_it_was(geometry):
    z = unit_rows(20, 8, dtype=torch.float64).requires_grad_()
    before = z.detach().clone()
    assert not stein_score(z, geometry=geometry).requires_grad
    assert torch.equal(z, before)


@both_geometries
def test_turning_the_sphere_turns_the_scores(geometry):
    z = unit_rows(30, 6, dtype=torch.float64)
    rotation = torch.from_numpy(scipy.stats.special_ortho_group.rvs(6, random_state=0))
    turned = stein_score(z @ rotation, geometry=geometry)
    torch.testing.assert_close(
        turned, stein_score(z, geometry=geometry) @ rotation, rtol=1e-8, atol=1e-8
    )


# The bandwidth --------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "dim"), [(1, 3), (2, 3), (7, 4), (8, 4), (61, 16)])
def test_the_bandwidth_is_the_lower_median_of_all_squared_many_distances(count, dim):
    # An even count (N = 2: distances 0, 0, a, a) shows the lower of the two middle values, and
    # N = 2 also that the zero diagonal is counted.
    z = unit_rows(count, dim, dtype=torch.float64)
    expected = reference_bandwidth(z.numpy())
    assert median_bandwidth(z).item() == pytest.approx(expected, rel=1e-12)


def test_two_opposite_rows_have_a_median_of_zero_and_so_the_floor():
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert median_bandwidth(z).item() == pytest.approx(0.1, rel=1e-6)


def test_the_bandwidth_of_crowded_rows_is_the_floor():
    z = unit_rows(32, 8, around=20.0, dtype=torch.float64)
    assert np.median(1 - z.numpy() @ z.numpy().T) < 0.01
    assert median_bandwidth(z).item() == 0.1


def test_the_bandwidth_counts_three_of_four_distances_of_spread_rows():
    # Four orthogonal rows: 4 distances of 0, 12 of 1, so the median is exactly 1
    assert median_bandwidth(torch.eye(4)).item() == 1.0


# Collapse -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 64, 1024, 1100])
def test_equal_rows_have_the_score_of_the_closed_form(count):
    # K = e^(1/D) 1 1^T and G = N e^(1/D) z / D, so S = -N e^(1/D) / (N e^(1/D) + eta) z / D with
    # D at its floor 0.1: minus ten times z, with eta of no account (1e-7). Any larger ridge that
    # stays small against N gives the same.
    z = unit_rows(1, 16).repeat(count, 1)
    computed = stein_score(z)
    torch.testing.assert_close(computed, -10 * z, rtol=1e-4, atol=1e-4)


@both_geometries
@pytest.mark.parametrize("count", [64, 1024])
@pytest.mark.parametrize("around", [3.0, 100.0, 1e4])
def test_near_collapsed_rows_equal_the_float64_formula(count, around, geometry):
    # At its floor of 0.1 the bandwidth makes the un-normalised system worse than 1e6 N in
    # condition: 1e9 for float64, well posed, hopeless for float32. At around = 1e4 the rows
    # differ by a few float32 roundings.
    z = unit_rows(count, 16, around=around)
    expected = reference_score(z, 0.01, geometry)
    computed = stein_score(z, geometry=geometry)
    assert relative_error(computed, expected) < FORMULA_TOLERANCE


@both_geometries
@pytest.mark.parametrize("around", [2.0, 100.0, 1e4])
def test_near_collapsed_rows_do_not_blow_the_score_up_beyond_1024_rows(around, geometry):
    # The filter 1/(lambda + eta) falls as eta rises: whatever larger ridge a lower precision
    # needs, the score can only be smaller than the formula's. A broken factorisation is not.
    z = unit_rows(1100, 128, around=around)
    expected = reference_score(z, 0.01, geometry)
    computed = stein_score(z, geometry=geometry)
    assert computed.isfinite().all()
    assert np.linalg.norm(computed.numpy()) < 1.05 * np.linalg.norm(expected)


@both_geometries
@pytest.mark.parametrize("count", [64, 1100])
def test_duplicated_rows_equal_the_float64_formula(count, geometry):
    # Every row twice: K is singular to the last digit and lives by its ridge alone.
    z = unit_rows(count // 2, 128).repeat(2, 1)
    expected = reference_score(z, 0.01, geometry)
    computed = stein_score(z, geometry=geometry)
    assert relative_error(computed, expected) < FORMULA_TOLERANCE
    half = count // 2
    # A row and its twin have one score
    gap = (computed[:half] - computed[half:]).norm() / computed.norm()
    assert gap < FORMULA_TOLERANCE


@both_geometries
@pytest.mark.parametrize("count", [6, 1100])
def test_no_ridge_at_all_stays_finite_on_a_singular_kernel(count, geometry):
    z = unit_rows(1, 16).repeat(count, 1)
    assert stein_score(z, eta=0.0, geometry=geometry).isfinite().all()


@both_geometries
def test_rows_of_zero_stay_finite(geometry):
    z = unit_rows(12, 8)
    z[3:6] = 0.0
    computed = stein_score(z, geometry=geometry)
    assert relative_error(computed, reference_score(z, 0.01, geometry)) < FORMULA_TOLERANCE


# What the score is for ------------------------------------------------------------------------


def vmf_with_score(kappa, count, dim, seed):
    """Exact vMF samples and the tangential part of their score, kappa (mu - (mu·z) z)."""
    mean = np.zeros(dim)
    mean[0] = 1.0
    generator = np.random.default_rng(seed)
    z = scipy.stats.vonmises_fisher(mean, kappa).rvs(count, random_state=generator)
    return torch.from_numpy(z).float(), kappa * (mean - z[:, :1] * z)


def tangential_error(z, score, true_score):
    score, rows = score.double().numpy(), z.double().numpy()
    tangential = score - (score * rows).sum(axis=1, keepdims=True) * rows
    return np.linalg.norm(tangential - true_score) / np.linalg.norm(true_score)


@pytest.mark.parametrize("kappa_per_dim", [0.5, 2.0])
@pytest.mark.parametrize("dim", [8, 32, 128])
def test_sphere_and_auto_ridge_beat_the_papers_setting_on_vmf_samples(dim, kappa_per_dim):
    errors = {"paper": [], "auto": []}
    for seed in range(2):
        z, true_score = vmf_with_score(kappa_per_dim * dim, 256, dim, seed)
        paper = stein_score(z, eta=0.01, geometry="euclidean")
        auto = stein_score(z, eta="auto", geometry="sphere")
        assert torch.equal(auto, stein_score(z, eta="auto", geometry="sphere"))
        errors["paper"].append(tangential_error(z, paper, true_score))
        errors["auto"].append(tangential_error(z, auto, true_score))
    assert np.mean(errors["auto"]) < 0.95 * np.mean(errors["paper"])


def test_recorded_table_of_all_twelve_cells_holds_what_the_docs_say():
    # The N = 1024 cells take minutes: python -m benchmarks.score_error
    file = Path(__file__).parents[2] / "benchmarks" / "results" / "score_error.json"
    report = json.loads(file.read_text())
    halves = [c for c in report["cells"] if "euclidean auto" in c]
    cells = {(c["dim"], c["n"], c["kappa"] / c["dim"]) for c in halves}
    assert cells == set(itertools.product((8, 32, 128), (256, 1024), (0.5, 2.0)))
    ratios = [c["sphere auto"]["error"] / c["paper"]["error"] for c in halves]
    assert np.mean(ratios) <= 0.5
    assert max(ratios) <= 0.95


@both_geometries
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_auto_ridge_is_finite_on_collapsed_and_few_rows(geometry, count):
    z = unit_rows(1, 8).repeat(count, 1)
    assert stein_score(z, eta="auto", geometry=geometry).isfinite().all()
    assert stein_score(unit_rows(count, 8), eta="auto", geometry=geometry).isfinite().all()


@both_geometries
def test_a_good_ridge_points_towards_the_mode(geometry):
    # The sign: the score of a vMF points uphill, to its mean. With a ridge in
    # 0.2 to 18 on the normalised kernel the relative error is below 0.7, so the cosine with the
    # truth is above sqrt(1 - 0.7^2) = 0.71. eta = 5 e^(1/D) is 5 on the normalised kernel.
    z, true_score = vmf_with_score(64.0, 512, 32, seed=0)
    eta = 5 * float(torch.exp(1 / median_bandwidth(z)))
    score = stein_score(z, eta=eta, geometry=geometry).double().numpy()
    rows = z.double().numpy()
    tangential = score - (score * rows).sum(axis=1, keepdims=True) * rows
    cosine = (tangential * true_score).sum() / (
        np.linalg.norm(tangential) * np.linalg.norm(true_score)
    )
    assert cosine > 0.71


def test_only_the_tangential_part_reaches_what_lies_before_the_normalisation():
    # Adding any radial part to S changes nothing once rows are normalised
    raw = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    raw.requires_grad_()
    z = torch.nn.functional.normalize(raw, dim=1)
    score = stein_score(z.detach())
    radial = torch.linspace(-5, 5, 20, dtype=torch.float64)[:, None] * z.detach()
    (with_radial,) = torch.autograd.grad(
        entropy_from_score(z, score + radial), raw, retain_graph=True
    )
    (without,) = torch.autograd.grad(entropy_from_score(z, score), raw)
    torch.testing.assert_close(with_radial, without, rtol=1e-10, atol=1e-12)
    assert without.norm() > 0.01


def test_the_surrogate_has_gradient_minus_score_over_n_and_value_minus_mean_product():
    z = unit_rows(9, 4, dtype=torch.float64).requires_grad_()
    score = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    score.requires_grad_()
    surrogate = entropy_from_score(z, score)
    surrogate.backward()
    expected = -np.einsum("nd,nd->", score.detach().numpy(), z.detach().numpy()) / 9
    assert surrogate.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(z.grad, -score.detach() / 9, rtol=1e-12, atol=0)
    assert score.grad is None


def test_climbing_the_surrogate_spreads_crowded_rows():
    # The direction: gradient ascent on the surrogate must raise the entropy. Rows that crowd
    # round one direction (mean length 0.9) are driven apart.
    raw = unit_rows(64, 8, around=1.0, dtype=torch.float64).requires_grad_()
    before = torch.nn.functional.normalize(raw, dim=1).mean(0).norm().item()
    for _ in range(20):
        z = torch.nn.functional.normalize(raw, dim=1)
        eta = 5 * float(torch.exp(1 / median_bandwidth(z.detach())))
        score = stein_score(z, eta=eta)
        (gradient,) = torch.autograd.grad(entropy_from_score(z, score), raw)
        raw = (raw + 0.5 * gradient).detach().requires_grad_()
    after = torch.nn.functional.normalize(raw, dim=1).mean(0).norm().item()
    assert after < before - 0.05


# Memory ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and ru_maxrss in KiB")
def test_peak_extra_memory_at_the_papers_batch_is_below_six_gram_matrices():
    # The bound at N = 4096, d = 2048: 6 (N^2 + N d) 4 bytes = 604 MB (the reference code:
    # 137 GB). On the sphere, whose right-hand side needs one more N x N product. A fresh process,
    # since a peak never falls; VmHWM, since ru_maxrss begins at the parent's peak.
    script = textwrap.dedent("""
        import resource, torch
        from erssl.entropy import stein_score
        torch.set_num_threads(2)
        count, dim = 4096, 2048
        z = torch.nn.functional.normalize(torch.randn(count, dim), dim=1)
        stein_score(z[:1200, :64].contiguous(), geometry="sphere")  # loads LAPACK, its buffers
        pages = int(open("/proc/self/statm").read().split()[1])
        before = pages * resource.getpagesize()
        stein_score(z, geometry="sphere")
        status = open("/proc/self/status").read()
        print(int(status.split("VmHWM:")[1].split()[0]) * 1024 - before)
    """)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    extra, gram, rows = int(result.stdout), 4 * 4096**2, 4 * 4096 * 2048
    # at least a kernel, its factor and the answer: below that the measurement itself is broken
    assert extra > 2 * gram + rows
    assert extra < 6 * (gram + rows)


# Errors ---------------------------------------------------------------------------------------


def test_bad_arguments_are_named():
    z = unit_rows(4, 3)
    with pytest.raises(ValueError, match=r"must have shape \(N, d\) but have \(3,\)\."):
        stein_score(z[0])
    with pytest.raises(ValueError, match=r"must have shape \(N, d\) but have \(0, 3\)\."):
        stein_score(z[:0])
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"bandwidth must be above 0 or None but is {value}"):
            stein_score(z, bandwidth=value)
    with pytest.raises(ValueError, match=r"eta must be a number or 'auto' but is 'large'\."):
        stein_score(z, eta="large")
    with pytest.raises(ValueError, match=r"eta must be at least 0 and finite but is -0\.1\."):
        stein_score(z, eta=-0.1)
    with pytest.raises(ValueError, match=r"eta must be at least 0 and finite but is inf\."):
        stein_score(z, eta=float("inf"))
    with pytest.raises(ValueError, match=r"must be 'euclidean' or 'sphere' but is 'torus'\."):
        stein_score(z, geometry="torus")
    with pytest.raises(ValueError, match=r"shrink to 'zero' or 'vmf' but shrink_to='mean'\."):
        stein_score(z, shrink_to="mean")


def test_a_score_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"one shape but have \(4, 3\) and \(4, 2\)\."):
        entropy_from_score(torch.ones(4, 3), torch.ones(4, 2))
