"""Entropy of discrete surrogates against scipy."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from erssl.entropy import discrete_entropy


@pytest.mark.parametrize(("rows", "outcomes"), [(1, 2), (7, 5), (64, 1000)])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 30.0])
def test_equals_scipy_entropy_of_the_mean_row(rows, outcomes, sharpness):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, outcomes, generator=generator, dtype=torch.float64)
    probs = (sharpness * logits).softmax(dim=1)
    expected = scipy.stats.entropy(probs.numpy().mean(axis=0))
    assert discrete_entropy(probs).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_the_largest_value_is_log_k_and_is_reached_by_balanced_outcomes():
    # every row certain, every outcome used alike: H(mean) = log K although each row has entropy 0
    assert discrete_entropy(torch.eye(600)).item() == pytest.approx(math.log(600), rel=1e-6)


def test_one_outcome_for_all_has_entropy_zero():
    probs = torch.zeros(5, 3)
    probs[:, 1] = 1
    assert discrete_entropy(probs).item() == 0.0


def test_the_gradient_is_finite_at_zero_probabilities_and_exact_elsewhere():
    probs = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]], dtype=torch.float64)
    probs.requires_grad_()
    discrete_entropy(probs).backward()
    assert probs.grad.isfinite().all()
    mean = np.array([0.375, 0.625])
    expected = np.tile(-(np.log(mean) + 1) / 2, (2, 1))  # each row is half of the mean
    np.testing.assert_allclose(probs.grad[:, :2].numpy(), expected, rtol=1e-12)


def test_the_gradient_of_a_saturated_soft_max_is_finite():
    logits = torch.tensor([[1000.0, 0.0, -1000.0]] * 3, requires_grad=True)
    discrete_entropy(logits.softmax(dim=1)).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    # With K = 60 000 outcomes float16 cannot even hold 1/K exactly; a sum in it is off by percents.
    probs = torch.randn(16, 4096, generator=torch.Generator().manual_seed(0)).softmax(1).to(dtype)
    mean = probs.double().numpy().mean(axis=0)
    expected = -(mean * np.log(mean)).sum()
    computed = discrete_entropy(probs)
    assert computed.dtype == torch.float32
    # 4096 float32 additions: 1e-6 relative, with a margin
    assert computed.item() == pytest.approx(expected, rel=5e-6)


def test_autocast_does_not_change_the_value():
    probs = torch.randn(8, 50, generator=torch.Generator().manual_seed(0)).softmax(1)
    expected = discrete_entropy(probs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = discrete_entropy(probs)
    assert computed.dtype == torch.float32
    assert computed.item() == expected.item()


def test_what_is_not_a_matrix_is_refused():
    with pytest.raises(ValueError, match=r"must have shape \(N, K\) but have \(3,\)\."):
        discrete_entropy(torch.ones(3) / 3)


@pytest.mark.parametrize("rows", [2, 8, 64])
def test_the_entropy_of_a_batchs_mean_is_a_lower_bound_in_expectation(rows):
    # Jensen: the entropy is concave, so that of a mean of few rows is below that of the true mean
    generator = torch.Generator().manual_seed(rows)
    weights = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
    drawn = torch.multinomial(weights, 4000 * rows, replacement=True, generator=generator)
    batches = torch.eye(4, dtype=torch.float64)[drawn].view(4000, rows, 4)
    reads = torch.stack([discrete_entropy(batch) for batch in batches])
    truth = scipy.stats.entropy(weights.numpy())
    assert reads.mean() < truth
    bias = -3 / (2 * rows)  # (K - 1) / 2N, of Miller and Madow, in the limit of many rows
    if rows == 64:
        assert (reads.mean() - truth).item() == pytest.approx(bias, rel=0.15)
