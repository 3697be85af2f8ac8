"""Alignment, uniformity, RankMe and spread against loops, numpy and closed forms."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from erssl.entropy import alignment, effective_rank, spread, uniformity
from erssl.entropy.geometry import unit_rows


def unit(n, d, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=generator, dtype=dtype), dim=1)


def test_alignment_and_uniformity_equal_loops_over_wang_and_isolas_formulas():
    z0, z1 = unit(9, 5), unit(9, 5, seed=1)
    squared = sum(float((a - b).square().sum()) for a, b in zip(z0, z1, strict=True)) / 9
    assert alignment(z0, z1).item() == pytest.approx(1 - squared / 2)
    for t in (1.0, 2.0):
        pairs = [
            math.exp(-t * float((z0[i] - z0[j]).square().sum()))
            for i in range(9)
            for j in range(9)
            if i != j
        ]
        assert uniformity(z0, t).item() == pytest.approx(math.log(sum(pairs) / len(pairs)))


def test_effective_rank_equals_rankme_by_numpy():
    z = unit(40, 12)
    singular = np.linalg.svd(z.numpy(), compute_uv=False)
    p = singular / singular.sum() + 1e-7
    assert effective_rank(z).item() == pytest.approx(math.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_counts_equal_directions(rank):
    assert effective_rank(torch.eye(8)[:rank].repeat(4, 1)).item() == pytest.approx(rank, rel=1e-4)


def test_spread_is_one_where_isotropic_and_zero_at_a_point():
    assert spread(unit(20000, 16)).item() == pytest.approx(1, abs=0.01)
    assert spread(unit(1, 16).repeat(5, 1)).item() == pytest.approx(0, abs=1e-12)
    z = unit(7, 3)
    by_hand = z.numpy().std(axis=0).mean() * math.sqrt(3)
    assert spread(z).item() == pytest.approx(by_hand)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    z = unit(8, 4).to(dtype)
    assert uniformity(z).dtype == effective_rank(z).dtype == torch.float32


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(N, d\)"):
        alignment(unit(4, 3), unit(5, 3))
    with pytest.raises(ValueError, match="N >= 2"):
        uniformity(unit(1, 3))


@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1.0, 1e200])
def test_rows_of_any_scale_are_brought_to_unit_norm(scale):
    z = unit(6, 5)
    torch.testing.assert_close(unit_rows(scale * z), z, rtol=1e-13, atol=1e-15)
    single = unit_rows((min(scale, 1e30) * z).float())
    if scale > 1e-40:  # what float32 has
        torch.testing.assert_close(single, z.float(), rtol=1e-5, atol=1e-6)


def test_rows_of_zero_share_a_point_and_take_no_gradient():
    z = unit(4, 3)
    z[1:3] = 0
    z.requires_grad_()
    rows = unit_rows(z)
    assert torch.equal(rows[1], rows[2])
    assert rows.norm(dim=1).tolist() == pytest.approx([1] * 4)
    (gradient,) = torch.autograd.grad(rows[:, 1].sum(), z)
    assert gradient.isfinite().all()
    assert not gradient[1:3].any()
    broken = z.detach().clone()
    broken[0, 0], broken[3, 1] = math.nan, math.inf
    assert unit_rows(broken).isnan().any(dim=1).tolist() == [True, False, False, True]
