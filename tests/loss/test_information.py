"""MINE and MIGE against their formulas, and against what they are estimates of."""

import math

import pytest
import torch
import torch.nn.functional as F

from erssl.loss import MVIBLoss
from erssl.loss._information import MINE, mige


def correlated(n, rho, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, 1, generator=generator, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def donsker_varadhan(critic, z0, z1):
    """The bound by loops, pairs of different samples being each row with the next."""
    n = len(z0)
    joint = [critic(torch.cat([z0[i], z1[i]])) for i in range(n)]
    others = [critic(torch.cat([z0[i], z1[i - 1]])).exp() for i in range(n)]
    return sum(joint) / n - (sum(others) / n).log()


def test_mines_value_and_first_gradient_are_those_of_the_bound():
    torch.manual_seed(0)
    mine = MINE(2, hidden_dim=8).double()
    z0 = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    z1 = torch.randn(6, 2, dtype=torch.float64)
    expected = donsker_varadhan(mine.critic, z0, z1)
    value = mine(z0, z1)
    torch.testing.assert_close(value, expected.squeeze())
    (gradient,) = torch.autograd.grad(value, z0)
    (exact,) = torch.autograd.grad(expected, z0)  # the average is that of the first batch itself
    torch.testing.assert_close(gradient, exact)


def test_mines_later_gradient_divides_by_the_moving_average_which_is_kept():
    torch.manual_seed(0)
    mine = MINE(1, hidden_dim=8).double()
    means = []
    for seed in range(3):
        z0, z1 = correlated(5, 0.5, seed)
        z0.requires_grad_()
        value = mine(z0, z1)
        others = mine.critic(torch.cat([z0, z1.roll(1, dims=0)], dim=1)).exp().mean()
        means.append(others.item())
    average = means[0]
    for mean in means[1:]:
        average = 0.99 * average + 0.01 * mean
    assert mine.log_average.exp().item() == pytest.approx(average)
    joint = mine.critic(torch.cat([z0, z1], dim=1)).mean()
    (expected,) = torch.autograd.grad(joint - others / average, z0)
    (gradient,) = torch.autograd.grad(value, z0)
    torch.testing.assert_close(gradient, expected)
    other = MINE(1, hidden_dim=8).double()
    other.load_state_dict(mine.state_dict())
    assert other.log_average.item() == mine.log_average.item()


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_a_trained_critic_reads_the_information_of_correlated_normals(rho):
    torch.manual_seed(0)
    mine = MINE(1, hidden_dim=32).double()
    optimizer = torch.optim.Adam(mine.parameters(), lr=5e-3)
    for step in range(300):
        loss = -mine(*correlated(512, rho, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        value = mine(*correlated(20000, rho, seed=1000)).item()
    assert value == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.12)


def test_mige_says_that_noise_costs_information_and_agreement_brings_it():
    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(256, 3, generator=generator, dtype=torch.float64), dim=1)
    noise = torch.randn(256, 3, generator=generator, dtype=torch.float64)
    for scale in (0.3, 0.6, 1.0):
        s = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(mige(z, z + s * noise), s)
        assert slope < 0


def test_gradients_are_finite_on_degenerate_rows():
    for estimator in ("mine", "mige"):
        loss_fn = MVIBLoss(estimator=estimator, dim=3)
        for rows in (torch.zeros(4, 6), torch.ones(4, 6), torch.randn(1, 6)):
            z0, z1 = rows.clone().requires_grad_(), rows.clone().requires_grad_()
            loss = loss_fn(z0, z1)
            loss.backward()
            assert loss.isfinite()
            assert z0.grad.isfinite().all()


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'infonce', 'mine' or 'mige' but is 'nce'"):
        MVIBLoss(estimator="nce")
    with pytest.raises(ValueError, match="needs dim"):
        MVIBLoss(estimator="mine")
    assert set(MVIBLoss(estimator="mige").terms) == set()
