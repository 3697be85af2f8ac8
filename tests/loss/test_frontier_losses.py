"""The losses of 2022 to 2026 against lightly's, and against their papers' formulas spelt out."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import (
    FroSSLLoss as LightlyFroSSL,
)
from lightly.loss import (
    KoLeoLoss,
)
from lightly.loss import (
    LeJEPALoss as LightlyLeJEPA,
)
from lightly.loss import (
    MMCRLoss as LightlyMMCR,
)
from lightly.loss import (
    TiCoLoss as LightlyTiCo,
)
from lightly.loss import (
    VISRegLoss as LightlyVISReg,
)
from lightly.loss.emp_ssl_loss import invariance_loss, tcr_loss
from lightly.loss.vicreg_loss import covariance_loss
from scipy.special import digamma

from erssl.entropy import log_neighbour_distance, random_directions
from erssl.loss import (
    CorInfoMaxLoss,
    E2MCLoss,
    EMPSSLLoss,
    ERLoss,
    FroSSLLoss,
    LeJEPALoss,
    MatrixSSLLoss,
    MECLoss,
    MMCRLoss,
    SimDINOLoss,
    TiCoLoss,
    VISRegLoss,
)

N, D, SLICES = 12, 5, 7
_randn = torch.randn  # also where a test has both libraries draw the same


def draw(count, n=N, d=D, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(_randn(count, n, d, generator=generator, dtype=torch.float64))


def unit(z):
    return F.normalize(z, dim=1)


def met(online, target):
    return [target[1], target[0]] + [(target[0] + target[1]) / 2] * (len(online) - 2)


# The references ---------------------------------------------------------------------------------


def lejepa(online, target):
    """lightly's own parts, whose whole wants its centre from the views themselves."""
    statistic = LightlyLeJEPA(sigreg_num_vectors=SLICES).double().sigreg(torch.stack(online))
    center = torch.stack(target).mean(dim=0)
    return 0.05 * statistic + 0.95 * (torch.stack(online) - center).square().mean()


def simdino(online, target, eps=0.5, smooth=True):
    online, target = [unit(z) for z in online], [unit(t) for t in target]
    cosines = [(z * t).sum(1).mean() for u, t in enumerate(target) for z in online[:u]]
    cosines += [(z * t).sum(1).mean() for u, t in enumerate(target) for z in online[u + 1 :]]
    rates = []
    for z, t in zip(online[:2], target, strict=True):
        z = (z + t) / 2 if smooth else z
        n, d = z.shape
        rates.append(0.5 * torch.logdet(torch.eye(d).to(z) + d / (n * eps) * z.T @ z))
    return -torch.stack(cosines).mean() - (n + d) / (n * d) * torch.stack(rates).mean()


def mec(online, target, inflation=1.0):
    total = 0.0
    for z, t in zip(online, met(*([unit(x) for x in v] for v in (online, target))), strict=True):
        c = unit(z) @ t.T / (len(z) * inflation / 32)
        powers = [torch.linalg.matrix_power(c, k) for k in (1, 2, 3, 4)]
        logarithm = powers[0] - powers[1] / 2 + powers[2] / 3 - powers[3] / 4
        total = total - logarithm.trace() / 32 * inflation / len(online)
    return total


def matrixssl(online, target, gamma=0.7):
    n, d = online[0].shape
    centring, one = torch.eye(n).double() - 1 / n, torch.eye(d).double()

    def logarithm(q):
        powers = [torch.linalg.matrix_power(q - one, k) for k in (1, 2, 3, 4)]
        return powers[0] - powers[1] / 2 + powers[2] / 3 - powers[3] / 4

    total = 0.0
    for z, t in zip(online, met(*([unit(x) for x in v] for v in (online, target))), strict=True):
        z = unit(z)
        cross, own, other = (a.T @ centring @ b / n + one for a, b in ((z, t), (z, z), (t, t)))
        total = total - (logarithm(cross).trace() + gamma * (own @ logarithm(other)).trace())
    return total / len(online)


def frossl(views):
    return LightlyFroSSL()(views)


def emp_ssl(views):
    z = torch.stack([unit(z) for z in views])
    return 200 * invariance_loss(z) - tcr_loss(z, eps=0.2)  # lightly's parts, the authors' sign


def mmcr(online, target):
    z = torch.stack([unit(z) for z in online], dim=1)
    t = z[:, :2].flip(1) if target is online else torch.stack([unit(t) for t in target], dim=1)
    if z.shape[1] > 2:  # lightly weighs all views alike
        z = z.mean(dim=1, keepdim=True).expand(-1, 2, -1)
    return LightlyMMCR(lmda=0.0)(z, t)


def e2mc(online, target):
    m = round(np.sqrt(N))
    errors = [F.mse_loss(z, t) for z, t in zip(online, met(online, target), strict=True)]
    total = 25 * torch.stack(errors).mean()
    for z in online:
        short = (1 - (torch.cov(z.T).diagonal() + 1e-4).sqrt()).clamp(min=0).mean()
        # lightly's part of VICReg, whose code sums the covariance of two views
        total = total + (4 * short + 0.5 * covariance_loss(z)) / len(online)
        y = z.sigmoid()
        ordered = y.sort(dim=0).values
        for j in range(D):
            gaps = [(ordered[i + m, j] - ordered[i, j]).log() for i in range(N - m)]
            entropy = torch.stack(gaps).mean() + digamma(N + 1) - digamma(m)
            total = total - 3.0 * entropy / D / len(online)
        covariance = torch.cov(y.T)
        off = covariance[~torch.eye(D, dtype=torch.bool)].square().sum()
        total = total + 2.0 * off / D / len(online)
    return total


def dhel(online, target):
    kappa, terms = 6.0, []
    for z, t in zip(online, met(*([unit(x) for x in v] for v in (online, target))), strict=True):
        z = unit(z)
        others = (kappa * z @ z.T).fill_diagonal_(-torch.inf)
        energy = others.logsumexp(dim=1) - np.log(len(z) - 1)
        terms.append((2 * energy - kappa * (z * t).sum(1)).mean())
    return torch.stack(terms).mean()


def koleo_er(online, target):
    terms = []
    for z, t in zip(online, met(*([unit(x) for x in v] for v in (online, target))), strict=True):
        terms.append(0.3 * KoLeoLoss()(z) - 4.0 * (unit(z) * t).sum(1).mean())
    return torch.stack(terms).mean()


PAIRED = {  # ours, and the reference; both of (online, target)
    "lejepa": (partial(LeJEPALoss, num_slices=SLICES), lejepa),
    "simdino": (SimDINOLoss, simdino),
    "simdino, online": (
        partial(SimDINOLoss, 0.05, smooth=False),
        partial(simdino, eps=0.05, smooth=False),
    ),
    "mec": (MECLoss, mec),
    "matrixssl": (partial(MatrixSSLLoss, gamma=0.7), matrixssl),
    "mmcr": (MMCRLoss, mmcr),
    "e2mc": (partial(E2MCLoss, 25.0, 3.0, 2.0, 4.0, 0.5), e2mc),
    "dhel": (partial(ERLoss, 6.0, entropy_weight=2.0), dhel),
    "koleo": (partial(ERLoss, 4.0, "koleo", entropy_weight=0.3), koleo_er),
}
MANY = {"frossl": (FroSSLLoss, frossl), "emp_ssl": (EMPSSLLoss, emp_ssl)}


@pytest.fixture
def same_slices(monkeypatch):
    """Let both libraries draw these directions."""
    slices = random_directions(D, SLICES, torch.Generator().manual_seed(5)).double()
    slices = F.normalize(slices, dim=0)
    monkeypatch.setattr("erssl.loss.lejepa.random_directions", lambda *_, **__: slices)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: slices.clone())


def assert_equal(ours, reference, leaves, tolerance=1e-10):
    torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)
    gradients = (torch.autograd.grad(loss, leaves) for loss in (ours, reference))
    for own, other in zip(*gradients, strict=True):
        assert (own - other).norm() <= tolerance * max(1.0, other.norm())


def tolerance_of(name):
    """Relative; lightly's frequencies are of float32, and its distances have 1e-8 added."""
    return 1e-6 if name in ("lejepa", "koleo") else 1e-9


@pytest.mark.parametrize("shape", [(N, D), (D, N)])
@pytest.mark.parametrize("name", PAIRED)
def test_two_views_of_one_branch(name, shape, same_slices, monkeypatch):
    if shape != (N, D) and name in ("lejepa", "e2mc"):
        pytest.skip("its reference is for one shape")
    z = [x.requires_grad_() for x in draw(2, *shape)]
    ours, reference = PAIRED[name]
    assert_equal(ours()(*z), reference(z, z), z, tolerance_of(name))


@pytest.mark.parametrize("name", PAIRED)
def test_local_views_and_a_target_branch(name, same_slices):
    online = [z.requires_grad_() for z in draw(4)]
    target = draw(2, seed=9)
    ours, reference = PAIRED[name]
    assert_equal(ours()(online, target), reference(online, target), online, tolerance_of(name))


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("shape", [(N, D), (D, N)])
@pytest.mark.parametrize("name", MANY)
def test_any_number_of_views_of_one_branch(name, shape, count):
    views = [z.requires_grad_() for z in draw(count, *shape)]
    ours, reference = MANY[name]
    assert_equal(ours()(views), reference(views), views)
    if count == 2:
        assert torch.equal(ours()(*views), ours()(views))


@pytest.mark.parametrize(
    ("ours", "theirs"), [(LeJEPALoss, LightlyLeJEPA), (VISRegLoss, LightlyVISReg)]
)
def test_sliced_losses_are_lightlys_whole(ours, theirs, same_slices):
    count = "sigreg_num_vectors" if theirs is LightlyLeJEPA else "num_slices"
    views = [z.requires_grad_() for z in draw(5)]
    reference = theirs(**{count: SLICES}).double()
    reference = reference(local_proj=torch.stack(views[2:]), global_proj=torch.stack(views[:2]))
    assert_equal(ours(num_slices=SLICES)(views, views[:2]), reference, views, 1e-6)


def test_mec_begins_with_a_larger_distortion():
    z = [x.requires_grad_() for x in draw(2)]
    loss_fn = MECLoss()
    loss_fn.inflation = 8.0
    assert_equal(loss_fn(*z), mec(z, z, 8.0), z)
    assert loss_fn.terms["alignment"] == pytest.approx(
        F.cosine_similarity(*z).mean().item(), rel=1e-9
    )


def test_tico_is_the_mean_of_lightlys_both_directions_over_steps():
    ours, theirs = TiCoLoss(D).double(), LightlyTiCo()
    for step in range(3):
        z0, z1 = (z.requires_grad_() for z in draw(2, seed=step))
        one = theirs(z0, z1, update_covariance_matrix=False)
        other = theirs(z1, z0, update_covariance_matrix=False)
        assert_equal(ours(z0, z1), (one + other) / 2, [z0, z1], 1e-9)
        both = torch.cat([unit(z0), unit(z1)]).detach()
        theirs.C = 0.9 * theirs.C + 0.1 * both.T @ both / (2 * N)
        torch.testing.assert_close(ours.covariance, theirs.C)
    again = TiCoLoss(D).double()
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again(*draw(2)), ours(*draw(2)))


def test_corinfomax_is_its_papers_over_steps():
    ours = CorInfoMaxLoss(D, alpha=50.0).double()
    covariance, mean = [torch.eye(D).double()] * 2, [torch.zeros(D).double()] * 2
    for step in range(3):
        views = [z.requires_grad_() for z in draw(2, seed=step)]
        expected = 50 * F.mse_loss(*(unit(z) for z in views))
        for v, z in enumerate(unit(z) for z in views):
            mean[v] = 0.1 * mean[v] + 0.9 * z.mean(dim=0)
            centred = z - mean[v]
            covariance[v] = 0.1 * covariance[v] + 0.9 * centred.T @ centred / N
            shifted = covariance[v] + 1e-8 * torch.eye(D)
            expected = expected - torch.logdet(shifted) / D
        assert_equal(ours(*views), expected, views, 1e-9)
        covariance, mean = [c.detach() for c in covariance], [m.detach() for m in mean]


def test_koleo_is_lightlys():
    (z,) = draw(1, n=40)
    z.requires_grad_()
    assert_equal(-log_neighbour_distance(unit(z)).mean(), KoLeoLoss()(z), [z], 1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: LeJEPALoss(lambda_param=1.5, **o),
        lambda **o: VISRegLoss(num_slices=0, **o),
        lambda **o: VISRegLoss(shape_weight=-1.0, **o),
        lambda **o: SimDINOLoss(distortion=0.0, **o),
        lambda **o: SimDINOLoss(gamma=-1.0, **o),
        lambda **o: MECLoss(order=0, **o),
        lambda **o: MatrixSSLLoss(gamma=-1.0, **o),
        lambda **o: CorInfoMaxLoss(4, forgetting=1.0, **o),
        lambda **o: TiCoLoss(4, beta=1.0, **o),
        lambda **o: FroSSLLoss(invariance_weight=-1.0, **o),
        lambda **o: EMPSSLLoss(distortion=0.0, **o),
        lambda **o: E2MCLoss(entropy_weight=-1.0, **o),
        lambda **o: ERLoss(entropy_weight=-1.0, **o),
        lambda **o: ERLoss(estimator="koleo", leave_one_out=False, **o),
        lambda **o: VISRegLoss(shape_weight=float("inf"), **o),
        lambda **o: VISRegLoss(num_slices=1.5, **o),
        lambda **o: LeJEPALoss(num_slices=True, **o),
        lambda **o: MECLoss(order=2.5, **o),
        lambda **o: MatrixSSLLoss(order=0, **o),
        lambda **o: MatrixSSLLoss(uniformity_weight=float("inf"), **o),
        lambda **o: CorInfoMaxLoss(-1, **o),
        lambda **o: CorInfoMaxLoss(4, alpha=float("inf"), **o),
        lambda **o: TiCoLoss(0, **o),
        lambda **o: TiCoLoss(4, rho=float("inf"), **o),
        lambda **o: FroSSLLoss(entropy_weight=float("inf"), **o),
        lambda **o: EMPSSLLoss(invariance_weight=float("nan"), **o),
        lambda **o: SimDINOLoss(gamma=float("inf"), **o),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match=r"must be|at least|above 0|needs|has no"):
        make()


@pytest.mark.parametrize("loss_fn", [CorInfoMaxLoss(4), TiCoLoss(4)])
def test_another_dimension_than_the_states_is_refused(loss_fn):
    with pytest.raises(ValueError, match="of dimension 4 but the loss was given 5"):
        loss_fn(*(z.float() for z in draw(2)))


def test_what_is_no_list_of_views_is_refused():
    z = draw(1)[0]
    with pytest.raises(ValueError, match="either two tensors"):
        FroSSLLoss()(z)
    with pytest.raises(ValueError, match="at least 2 views but was given 1"):
        EMPSSLLoss()([z])
