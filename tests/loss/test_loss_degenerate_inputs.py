"""Losses stay finite, in value and gradient, wherever training can end up."""

import math

import pytest
import torch

from erssl.loss import (
    CorInfoMaxLoss,
    DiscreteERLoss,
    E2MCLoss,
    EMPSSLLoss,
    EntRecLoss,
    ERLoss,
    FroSSLLoss,
    LeJEPALoss,
    MatrixSSLLoss,
    MECLoss,
    MMCRLoss,
    MVEBLoss,
    MVIBLoss,
    SimDINOLoss,
    TiCoLoss,
    VISRegLoss,
)

from .loss_reference import log_normalizer

LOSSES = {
    "er": lambda: ERLoss(),
    "er_self_term": lambda: ERLoss(leave_one_out=False),
    "er_plugin": lambda: ERLoss(estimator="plugin"),
    "er_memory": lambda: ERLoss(memory_bank_size=(32, 16)),
    "discrete_er": lambda: DiscreteERLoss(),
    "discrete_er_center": lambda: DiscreteERLoss(center=True, output_dim=16),
    "entrec": lambda: EntRecLoss(),
    "entrec_discrete": lambda: EntRecLoss("discrete"),
    "mveb": lambda: MVEBLoss(),
    "mveb_sphere": lambda: MVEBLoss(geometry="sphere"),
    "mveb_auto": lambda: MVEBLoss(geometry="sphere", eta="auto"),
    "mveb_rows": lambda: MVEBLoss(score_rows=3),
    "mveb_stable": lambda: MVEBLoss(geometry="sphere", eta="auto", shrink_to="vmf"),
    "mveb_local": lambda: MVEBLoss(normalize_local_target=True),
    "mvib": lambda: MVIBLoss(),
    "er_best": lambda: ERLoss("best"),
    "er_learned": lambda: ERLoss("learned"),
    "er_renyi2": lambda: ERLoss(estimator="renyi2"),
    "mveb_bandwidth": lambda: MVEBLoss(bandwidth_scale="auto"),
    "er_koleo": lambda: ERLoss(estimator="koleo"),
    "mveb_kde": lambda: MVEBLoss(entropy="kde", bandwidth=0.1),
    "mveb_knn": lambda: MVEBLoss(entropy="knn"),
    "corinfomax": lambda: CorInfoMaxLoss(DIM),
    "e2mc": lambda: E2MCLoss(),
    "emp_ssl": lambda: EMPSSLLoss(),
    "frossl": lambda: FroSSLLoss(),
    "lejepa": lambda: LeJEPALoss(num_slices=8),
    "matrixssl": lambda: MatrixSSLLoss(),
    "mec": lambda: MECLoss(),
    "mmcr": lambda: MMCRLoss(),
    "simdino": lambda: SimDINOLoss(),
    "tico": lambda: TiCoLoss(DIM),
    "visreg": lambda: VISRegLoss(num_slices=8),
}
NEEDS_TWO = ("er_koleo", "e2mc", "mveb_kde", "mveb_knn")  # a neighbour, or a spacing
NEEDS_OTHERS = (  # undefined for one row: left out itself
    "er",
    "er_plugin",
    "er_memory",
    "entrec",
    "er_best",
    "er_learned",
    "er_renyi2",
)
LISTS = [name for name in LOSSES if name not in ("mvib", "frossl", "emp_ssl")]
DIM = 16


def rows(count, seed=0):
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def some_zero_rows(count):
    z = rows(count)
    z[::3] = 0
    return z


def one_hot(count):
    return 50 * torch.eye(DIM).repeat(math.ceil(count / DIM), 1)[:count]


INPUTS = {
    "equal rows, views alike": lambda n: (rows(1).repeat(n, 1), rows(1).repeat(n, 1)),
    "equal rows, views opposed": lambda n: (rows(1).repeat(n, 1), -rows(1).repeat(n, 1)),
    "rows equal but for rounding": lambda n: (1 + 1e-6 * rows(n), 1 + 1e-6 * rows(n, 1)),
    "duplicated rows": lambda n: (rows(n // 2).repeat(2, 1), rows(n // 2, 1).repeat(2, 1)),
    "rows of zero": lambda n: (torch.zeros(n, DIM), torch.zeros(n, DIM)),
    "one view of zeros": lambda n: (rows(n), torch.zeros(n, DIM)),
    "some rows of zero": lambda n: (some_zero_rows(n), rows(n, 1)),
    "scale 1e-6": lambda n: (1e-6 * rows(n), 1e-6 * rows(n, 1)),
    "scale 1e6": lambda n: (1e6 * rows(n), 1e6 * rows(n, 1)),
    "scales mixed": lambda n: (1e-6 * rows(n), 1e6 * rows(n, 1)),
    "certain rows": lambda n: (one_hot(n), one_hot(n)),
    "certain rows that disagree": lambda n: (one_hot(n), one_hot(n).roll(1, 0)),
    "two rows": lambda n: (rows(2), rows(2, 1)),
}
all_inputs = pytest.mark.parametrize("case", INPUTS)
all_losses = pytest.mark.parametrize("name", LOSSES)


def assert_finite(loss, leaves):
    assert loss.isfinite()
    for gradient in torch.autograd.grad(loss, leaves):
        assert gradient.isfinite().all()


@all_losses
@all_inputs
def test_value_and_gradient_are_finite(name, case):
    z0, z1 = (z.clone().requires_grad_() for z in INPUTS[case](12))
    loss_fn = LOSSES[name]()
    assert_finite(loss_fn(z0, z1), [z0, z1])
    # again: now a queue holds these rows and a centre has followed them
    assert_finite(loss_fn(z0, z1), [z0, z1])


@pytest.mark.parametrize("name", LISTS)
@all_inputs
def test_value_and_gradient_are_finite_with_local_views(name, case):
    z0, z1 = INPUTS[case](12)
    online = [z.clone().requires_grad_() for z in (z0, z1, z0, z1)]
    assert_finite(LOSSES[name]()(online, [z1.clone(), z0.clone()]), online)


@all_losses
@all_inputs
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_value_and_gradient_are_finite_under_autocast(name, case, dtype):
    if dtype == torch.float16 and "scale" in case:
        if name == "mvib":
            pytest.skip("posteriors of scale 1e-7 have true gradients beyond float16's 65504")
        if name == "e2mc":
            pytest.skip("VICReg's covariance of rows of 1e4 has true gradients beyond 65504")
        # 1e6 is infinite in float16, and at 1e-6 the true gradient, of the order of 1e6, is: the
        # widest scales that float16 itself can carry both ways
        narrow = {"scale 1e-6": (1e-3, 1e-3), "scale 1e6": (1e4, 1e4), "scales mixed": (1e-3, 1e4)}
        views = tuple(s * rows(12, seed) for seed, s in enumerate(narrow[case]))
    else:
        views = INPUTS[case](12)
    leaves = [z.clone().requires_grad_() for z in views]
    loss_fn = LOSSES[name]()
    with torch.autocast("cpu", dtype=dtype):
        # the gradient, too, passes through the half precision in which the network gave z
        loss = loss_fn(*(z.to(dtype) for z in leaves))
    assert loss.dtype == torch.float32
    assert_finite(loss, leaves)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in NEEDS_OTHERS + NEEDS_TWO])
def test_one_row_is_finite(name):
    z0, z1 = rows(1).requires_grad_(), rows(1, 1).requires_grad_()
    assert_finite(LOSSES[name]()(z0, z1), [z0, z1])


@pytest.mark.parametrize("name", NEEDS_OTHERS)
def test_one_row_without_the_self_term_is_a_clear_error(name):
    message = "needs at least two rows or a memory; with a single row pass leave_one_out=False"
    with pytest.raises(ValueError, match=message):
        LOSSES[name]()(rows(1), rows(1, 1))


@pytest.mark.parametrize("geometry", ["euclidean", "sphere"])
@pytest.mark.parametrize("case", ["equal rows, views alike", "rows equal but for rounding"])
def test_mveb_is_finite_on_a_collapsed_batch_beyond_1024_rows(geometry, case):
    z0, z1 = (z.clone().requires_grad_() for z in INPUTS[case](1100))
    loss = MVEBLoss(geometry=geometry)(z0, z1)
    assert_finite(loss, [z0, z1])
    if case.startswith("equal") and geometry == "euclidean":
        assert loss.item() == pytest.approx(-1.1, rel=1e-4)  # as below, for any number of rows


# Where the value is known ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["er", "er_self_term", "er_plugin", "entrec"])
def test_a_collapsed_er_loss_is_exactly_zero(name):
    # Equal rows: log p = kappa + log C at every sample, whatever the estimator; so H cancels
    # E log q: a collapsed representation carries no information.
    z = rows(1).repeat(9, 1)
    # float32: kappa + log C of order 10, eps of it
    assert LOSSES[name]()(z, z.clone()).item() == pytest.approx(0.0, abs=1e-5)


def test_a_collapsed_mveb_loss_is_minus_one_minus_ten_beta():
    # S = -z / 0.1 (bandwidth at its floor): alignment 1, surrogate 10; eta changes 1e-7 of it
    z = rows(1).repeat(9, 1)
    assert MVEBLoss(beta=0.01)(z, z.clone()).item() == pytest.approx(-1.1, rel=1e-5)


def test_a_collapsed_discrete_loss_of_one_soft_max_is_zero():
    # Equal rows and equal temperatures: CE(p, p) = H(p) = H(mean p)
    z = rows(1).repeat(9, 1)
    assert EntRecLoss("discrete")(z, z.clone()).item() == pytest.approx(0.0, abs=1e-5)


def test_one_row_with_the_self_term_costs_kappa_times_one_minus_the_cosine():
    z0, z1 = rows(1).double(), rows(1, 1).double()
    loss_fn = ERLoss(kappa=10.0, leave_one_out=False)
    cosine = torch.nn.functional.cosine_similarity(z0, z1).item()
    assert loss_fn(z0, z1).item() == pytest.approx(10 * (1 - cosine), rel=1e-10)
    assert loss_fn.terms["entropy"].item() == pytest.approx(
        -10 - log_normalizer(DIM, 10.0), rel=1e-10
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
@pytest.mark.parametrize("name", ["er", "er_plugin", "entrec", "mveb", "mveb_sphere"])
def test_the_value_does_not_depend_on_the_scale_before_normalisation(name, scale):
    z0, z1 = rows(12), rows(12, 1)
    expected = LOSSES[name]()(z0, z1).item()
    computed = LOSSES[name]()(scale * z0, scale * z1).item()
    # rounding of the products by `scale`, amplified by kappa = 10 or by the score
    assert computed == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", ["er", "er_plugin", "entrec", "mveb", "mveb_sphere"])
def test_a_row_of_zero_does_not_throw_the_weights_before_it(name):
    # A dead row has no direction. Whatever subgradient it gets, it must stay of the order of
    # the other rows': 1e12 (one over the epsilon of a normalisation) ends a training run.
    z0, z1 = some_zero_rows(12).requires_grad_(), rows(12, 1).requires_grad_()
    (gradient, _) = torch.autograd.grad(LOSSES[name]()(z0, z1), [z0, z1])
    norms = gradient.norm(dim=1)
    dead = z0.detach().norm(dim=1) == 0
    assert norms[dead].max() < 1e3 * norms[~dead].max()
