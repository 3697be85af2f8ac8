"""MVIB against the analytic divergence and lightly's NTXentLoss on the same samples."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from torch.distributions import Independent, Normal, kl_divergence

from erssl.loss import MVIBLoss

from .loss_reference import numerical_gradients

SCALE_FLOOR = 1e-7  # added to the soft-plus; of no account at the tolerances below


def parameters(count=7, dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, 2 * dim, generator=generator, dtype=torch.float64).unbind()


def symmetrised_divergence(views):
    """Mean over samples of half of KL(p0||p1) + KL(p1||p0), for diagonal normals, by hand."""
    total = 0.0
    (mean0, raw0), (mean1, raw1) = (np.split(v, 2, axis=1) for v in views)
    var0, var1 = (np.logaddexp(0, raw) ** 2 for raw in (raw0, raw1))
    for m_p, v_p, m_q, v_q in ((mean0, var0, mean1, var1), (mean1, var1, mean0, var0)):
        kl = 0.5 * (v_p / v_q + (m_p - m_q) ** 2 / v_q - 1 + np.log(v_q / v_p))
        total += 0.5 * kl.sum(axis=1).mean()
    return total


def drawn_samples(z0, z1, seed):
    """One reparameterised sample of each view, in the order of the views."""
    torch.manual_seed(seed)
    samples = []
    for z in (z0, z1):
        mean, raw_scale = z.chunk(2, dim=1)
        noise = torch.normal(torch.zeros_like(mean), torch.ones_like(mean))
        samples.append(mean + F.softplus(raw_scale) * noise)
    return samples


def test_the_divergence_equals_the_analytic_formula_and_torchs():
    z0, z1 = parameters()
    loss_fn = MVIBLoss()
    loss_fn(z0, z1)
    divergence = loss_fn.terms["divergence"].item()
    # the floor of 1e-7 under scales of about 0.7 moves KL by about 1e-6
    assert divergence == pytest.approx(symmetrised_divergence([z0.numpy(), z1.numpy()]), rel=1e-5)
    p0, p1 = (
        Independent(Normal(mean, F.softplus(raw)), 1)
        for mean, raw in (z.chunk(2, dim=1) for z in (z0, z1))
    )
    torchs = 0.5 * (kl_divergence(p0, p1) + kl_divergence(p1, p0)).mean()
    assert divergence == pytest.approx(torchs.item(), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_the_reconstruction_is_minus_lightlys_ntxentloss_of_the_same_samples(temperature):
    z0, z1 = parameters()
    expected = NTXentLoss(temperature)(*drawn_samples(z0, z1, seed=3))
    loss_fn = MVIBLoss(temperature=temperature)
    torch.manual_seed(3)
    loss_fn(z0, z1)
    assert loss_fn.terms["reconstruction"].item() == pytest.approx(-expected.item(), rel=1e-6)


def test_value_and_gradient_equal_multiplier_times_divergence_plus_infonce():
    leaves = [z.requires_grad_() for z in parameters()]
    torch.manual_seed(5)
    loss = MVIBLoss(multiplier=0.3, temperature=0.2)(*leaves)
    gradients = torch.autograd.grad(loss, leaves)

    # the information part by lightly on the same samples, through torch's own autograd
    info_nce = NTXentLoss(0.2)(*drawn_samples(*leaves, seed=5))
    expected = torch.autograd.grad(info_nce, leaves)
    arrays = [z.detach().numpy().copy() for z in leaves]
    divergence = symmetrised_divergence(arrays)
    assert loss.item() == pytest.approx(0.3 * divergence + info_nce.item(), rel=1e-5)
    # the divergence part by differences of the formula; the scale floor leaves 1e-6
    numerical = numerical_gradients(symmetrised_divergence, arrays)
    for computed, information, difference in zip(gradients, expected, numerical, strict=True):
        np.testing.assert_allclose(
            computed.numpy(), information.numpy() + 0.3 * difference, rtol=2e-5, atol=1e-6
        )


def test_equal_posteriors_have_no_divergence():
    (z0, _) = parameters()
    loss_fn = MVIBLoss()
    loss_fn(z0, z0.clone())
    assert loss_fn.terms["divergence"].item() == pytest.approx(0.0, abs=1e-12)


def test_the_same_seed_gives_the_same_loss_and_another_does_not():
    z0, z1 = parameters()
    loss_fn = MVIBLoss()
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(loss_fn(z0, z1).item())
    assert values[0] == values[1] != values[2]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"multiplier must be at least 0 and finite but is -1\."):
        MVIBLoss(multiplier=-1)
    for temperature in (0, -0.5):
        with pytest.raises(ValueError, match=f"temperature must be above 0 but is {temperature}"):
            MVIBLoss(temperature=temperature)
    loss_fn = MVIBLoss()
    message = r"one shape \(N, 2d\), means then raw scales, but have "
    with pytest.raises(ValueError, match=message + r"\(4, 6\) and \(4, 8\)\."):
        loss_fn(torch.ones(4, 6), torch.ones(4, 8))
    with pytest.raises(ValueError, match=message + r"\(4, 5\) and \(4, 5\)\."):
        loss_fn(torch.ones(4, 5), torch.ones(4, 5))
    with pytest.raises(ValueError, match=message + r"\(4,\) and \(4,\)\."):
        loss_fn(torch.ones(4), torch.ones(4))
