"""Each loss against a brute-force float64 version of its formula, in value, terms and gradient."""

import inspect
import math

import pytest
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.center import Center

from erssl.entropy import stein_score
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

from .loss_reference import (
    check_loss,
    discrete_er_loss,
    er_loss,
    log_normalizer,
    mveb_loss,
    mveb_scores,
    views,
)

ESTIMATORS = pytest.mark.parametrize(
    ("estimator", "leave_one_out"),
    [("joe", True), ("joe", False), ("plugin", True), ("plugin", False)],
)
# Number of online views and of targets: shared branches, two branches, and 2 + 2 local views
VIEWS = pytest.mark.parametrize("number", [None, 2, 4])


def online_and_target(number, count=5, dim=4):
    if number is None:
        return views(2, count, dim), None
    return views(number, count, dim), views(2, count, dim, seed=1)


# ER -------------------------------------------------------------------------------------------


@ESTIMATORS
@VIEWS
def test_er_loss_equals_brute_force(estimator, leave_one_out, number):
    online, target = online_and_target(number)
    loss_fn = ERLoss(kappa=6.0, estimator=estimator, leave_one_out=leave_one_out)
    check_loss(
        loss_fn,
        online,
        target,
        lambda o, t: er_loss(o, t, 6.0, estimator, leave_one_out),
    )


WEIGHTS = pytest.mark.parametrize(("w", "r"), [(0.0, 1.0), (1.0, 0.0), (0.25, 2.0), (4.0, 1.0)])


def weighted(result, w, r):
    """The loss of its two terms with weights, and the terms."""
    _, terms = result
    return -(w * terms["entropy"] + r * terms["reconstruction"]), terms


@WEIGHTS
def test_er_loss_weighs_its_terms(w, r):
    # the loss leaves w log C - r log C out, which has no gradient
    online, target = online_and_target(4)
    constant = (r - w) * log_normalizer(4, 6.0)

    def expected(o, t):
        value, terms = weighted(er_loss(o, t, 6.0), w, r)
        return value + constant, terms

    loss_fn = ERLoss(kappa=6.0, entropy_weight=w, reconstruction_weight=r)
    check_loss(loss_fn, online, target, expected)


@WEIGHTS
def test_discrete_er_loss_weighs_its_terms(w, r):
    online, target = online_and_target(4)
    loss_fn = DiscreteERLoss(entropy_weight=w, reconstruction_weight=r)
    check_loss(loss_fn, online, target, lambda o, t: weighted(discrete_er_loss(o, t), w, r))


def test_er_loss_takes_any_number_of_local_views():
    online, target = views(5, 3, 3), views(2, 3, 3, seed=1)
    check_loss(ERLoss(), online, target, lambda o, t: er_loss(o, t))


def test_er_loss_of_perfect_alignment_on_spread_rows_is_known_in_closed_form():
    # Orthonormal rows, both views equal: p_i = C e^0 without the self term, so H = -log C;
    # E log q = kappa + log C; L = -kappa.
    z = torch.eye(6, dtype=torch.float64)
    loss_fn = ERLoss(kappa=10.0)
    assert loss_fn(z, z).item() == pytest.approx(-10.0, rel=1e-12)
    assert loss_fn.terms["alignment"].item() == pytest.approx(1.0)
    assert loss_fn.terms["entropy"].item() == pytest.approx(-log_normalizer(6, 10.0), rel=1e-12)


def test_the_default_er_loss_is_joes_estimate_without_the_self_term_at_kappa_10():
    online, target = views(2, 6, 5), views(2, 6, 5, seed=1)
    arrays = [z.numpy() for z in online], [t.numpy() for t in target]
    expected, _ = er_loss(*arrays, kappa=10.0, estimator="joe", leave_one_out=True)
    assert ERLoss()(online, target).item() == pytest.approx(expected, rel=1e-10)


# EntRec ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("leave_one_out", [True, False])
def test_continuous_entrec_equals_brute_force(temperature, leave_one_out):
    # L = -1/2 sum_b [H_Joe(Z_b) + mean log q(z_b | z_other)] (EntRec)
    loss_fn = EntRecLoss(temperature=temperature, leave_one_out=leave_one_out)
    check_loss(
        loss_fn,
        views(2, 5, 4),
        None,
        lambda o, t: er_loss(o, t, 1 / temperature, "joe", leave_one_out),
    )


def test_er_loss_with_the_self_term_is_continuous_entrec():
    z0, z1 = views(2, 7, 5)
    entrec = EntRecLoss("continuous", temperature=0.125, leave_one_out=False)
    er = ERLoss(kappa=8.0, leave_one_out=False)
    assert er(z0, z1).item() == pytest.approx(entrec(z0, z1).item(), rel=1e-12)
    expected, _ = er_loss([z0.numpy(), z1.numpy()], [z0.numpy(), z1.numpy()], 8.0, "joe", False)
    assert entrec(z0, z1).item() == pytest.approx(expected, rel=1e-10)


def test_discrete_entrec_equals_brute_force():
    check_loss(
        EntRecLoss("discrete"),
        views(2, 5, 4),
        None,
        lambda o, t: discrete_er_loss(o, t, temperature=1.0, target_temperature=1.0),
    )


# Discrete ER ----------------------------------------------------------------------------------


@VIEWS
@pytest.mark.parametrize("temperatures", [(0.1, 0.04), (0.5, 1.0)])
def test_discrete_er_loss_equals_brute_force(number, temperatures):
    online, target = online_and_target(number)
    # logits of the size of cosines: at 1/0.04 a soft-max of larger ones has no gradient to test
    online = [0.1 * z for z in online]
    target = target and [0.1 * t for t in target]
    check_loss(
        DiscreteERLoss(*temperatures),
        online,
        target,
        lambda o, t: discrete_er_loss(o, t, *temperatures),
    )


def test_discrete_er_loss_of_balanced_certain_agreement_is_minus_log_k():
    # H(W) = log K and E log q = 0: the bound is at its ceiling log K
    logits = 50 * torch.eye(6, dtype=torch.float64)
    loss_fn = DiscreteERLoss()
    assert loss_fn(logits, logits).item() == pytest.approx(-math.log(6), rel=1e-12)
    assert loss_fn.terms["entropy"].item() == pytest.approx(math.log(6), rel=1e-12)


def test_the_centre_is_subtracted_first_and_follows_the_targets_like_lightlys():
    online, target = views(4, 5, 4, scale=0.1), views(2, 5, 4, seed=1, scale=0.1)
    loss_fn = DiscreteERLoss(center=True, output_dim=4, center_momentum=0.8)
    reference = Center((1, 4), momentum=0.8)
    for step in range(3):
        shifted = [t + 0.1 * step for t in target]
        expected, _ = discrete_er_loss(
            [z.numpy() for z in online],
            [t.numpy() for t in shifted],
            center=reference.value.numpy(),
        )
        # the centre's buffer starts in float32, where 0.8 and 0.2 are rounded
        assert loss_fn(online, shifted).item() == pytest.approx(expected, rel=1e-6)
        reference.update(torch.cat(shifted))
    assert reference.value.abs().max() > 0.01
    torch.testing.assert_close(loss_fn.center.value, reference.value.float())


def test_the_centre_is_left_alone_without_gradient_and_kept_in_the_state_dict():
    logits = views(2, 5, 4)
    loss_fn = DiscreteERLoss(center=True, output_dim=4)
    with torch.no_grad():
        loss_fn(*logits)
    assert loss_fn.center.value.abs().max() == 0
    loss_fn(*logits)
    restored = DiscreteERLoss(center=True, output_dim=4)
    restored.load_state_dict({k: v.float() for k, v in loss_fn.state_dict().items()})
    assert restored.center.value.abs().max() > 0
    torch.testing.assert_close(restored(*logits), loss_fn(*logits), rtol=1e-5, atol=1e-5)


# MVEB -----------------------------------------------------------------------------------------


@VIEWS
@pytest.mark.parametrize("geometry", ["euclidean", "sphere"])
@pytest.mark.parametrize("normalize_local_target", [False, True])
def test_mveb_loss_equals_brute_force(number, geometry, normalize_local_target):
    online, target = online_and_target(number)
    # beta and eta above the paper's, so that the entropy's part of the gradient is no smaller
    # than the alignment's and cannot hide behind it
    beta, eta = 0.3, 0.05
    scores = mveb_scores([z.numpy() for z in online], eta, geometry)
    loss_fn = MVEBLoss(
        beta=beta, eta=eta, geometry=geometry, normalize_local_target=normalize_local_target
    )
    check_loss(
        loss_fn,
        online,
        target,
        lambda o, t: mveb_loss(o, t, scores, beta, normalize_local_target),
        gradient_atol=1e-7,  # |S| of order 10 to 100 here
    )


def test_mveb_loss_takes_a_bandwidth():
    online, target = views(2, 6, 4), views(2, 6, 4, seed=1)
    scores = mveb_scores([z.numpy() for z in online], bandwidth=0.4)
    check_loss(
        MVEBLoss(beta=0.5, bandwidth=0.4),
        online,
        target,
        lambda o, t: mveb_loss(o, t, scores, beta=0.5),
        gradient_atol=1e-7,
    )


def test_the_default_mveb_loss_is_the_papers():
    online, target = views(4, 6, 4), views(2, 6, 4, seed=1)
    arrays = [z.numpy() for z in online], [t.numpy() for t in target]
    scores = mveb_scores(arrays[0], eta=0.01, geometry="euclidean")
    expected, _ = mveb_loss(*arrays, scores, beta=0.01, normalize_local_target=False)
    assert MVEBLoss()(online, target).item() == pytest.approx(expected, rel=1e-9)


def test_mveb_without_entropy_is_minus_the_mean_cosine():
    z0, z1 = views(2, 9, 5)
    expected = -torch.nn.functional.cosine_similarity(z0, z1).mean()
    assert MVEBLoss(beta=0.0)(z0, z1).item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_target_gets_gradient_from_the_alignment_alone():
    # The entropy of equation (11) is that of the online views; targets have no H of their own.
    online, target = views(2, 6, 4), views(2, 6, 4, seed=1)
    gradients = []
    for beta in (0.0, 0.5):
        leaves = [t.clone().requires_grad_() for t in target]
        gradients.append(torch.autograd.grad(MVEBLoss(beta=beta)(online, leaves), leaves))
    for without, with_entropy in zip(*gradients, strict=True):
        torch.testing.assert_close(without, with_entropy, rtol=1e-12, atol=0)


# What all of them share -----------------------------------------------------------------------

ALL_LOSSES = {
    "er": lambda: ERLoss(),
    "er_plugin": lambda: ERLoss(estimator="plugin", leave_one_out=False),
    "discrete_er": lambda: DiscreteERLoss(),
    "entrec": lambda: EntRecLoss(),
    "entrec_discrete": lambda: EntRecLoss("discrete"),
    "mveb": lambda: MVEBLoss(),
    "mveb_sphere": lambda: MVEBLoss(geometry="sphere", eta=1.0),
    "mvib": lambda: MVIBLoss(),
}
all_losses = pytest.mark.parametrize("name", ALL_LOSSES)
NORMALISING = ("er", "er_plugin", "entrec", "mveb", "mveb_sphere")


@all_losses
def test_a_loss_drops_in_where_ntxentloss_stood(name):
    # One lightly training step, the criterion the only difference. NTXentLoss(out0, out1) is
    # called by position with two (N, d) tensors and returns a scalar to call backward on.
    parameters = list(inspect.signature(NTXentLoss.forward).parameters)
    own = inspect.signature(type(ALL_LOSSES[name]()).forward).parameters.values()
    assert sum(p.default is inspect.Parameter.empty for p in own) == len(parameters)
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(32, 12, generator=generator)
    noise = 0.3 * torch.randn(2, 32, 12, generator=generator)
    for criterion in (NTXentLoss(temperature=0.5), ALL_LOSSES[name]()):
        torch.manual_seed(0)
        head = torch.nn.Linear(12, 8)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.05)
        values = []
        for _ in range(15):
            torch.manual_seed(1)  # MVIB draws samples: the same ones, so that values compare
            loss = criterion(head(samples + noise[0]), head(samples + noise[1]))
            assert loss.shape == ()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        if name.startswith("mveb") and not isinstance(criterion, NTXentLoss):
            continue  # its scalar is a surrogate: only its gradient has a meaning
        assert values[-1] < values[0]


@all_losses
def test_the_two_views_are_interchangeable(name):
    z0, z1 = views(2, 8, 6)
    if name == "mvib":  # without noise: both posteriors certain, so that the order of draws is gone
        z0, z1 = (torch.cat([z[:, :3], torch.full((8, 3), -60.0)], dim=1) for z in (z0, z1))
    forward, backward = ALL_LOSSES[name]()(z0, z1), ALL_LOSSES[name]()(z1, z0)
    torch.testing.assert_close(forward, backward, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NORMALISING)
def test_rows_are_normalised_inside_as_by_ntxentloss(name):
    z0, z1 = views(2, 8, 6)
    scales = torch.linspace(0.1, 20, 8, dtype=torch.float64)[:, None]
    loss_fn = ALL_LOSSES[name]()
    torch.testing.assert_close(
        loss_fn(scales * z0, z1 / scales), loss_fn(z0, z1), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("name", [name for name in ALL_LOSSES if name != "mvib"])
def test_float32_agrees_with_float64(name):
    # (MVIB draws other samples in another dtype.)
    z0, z1 = views(2, 16, 8)
    loss_fn = ALL_LOSSES[name]()
    single, double = loss_fn(z0.float(), z1.float()), loss_fn(z0, z1)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    # rows are rounded to 6e-8; kappa = 10, logits/0.04 and |S| beta amplify it a hundredfold
    assert single.item() == pytest.approx(double.item(), rel=2e-5, abs=2e-5)


@pytest.mark.parametrize("name", [name for name in ALL_LOSSES if name != "mvib"])
def test_views_of_two_precisions_meet_in_the_wider_one(name):
    z0, z1 = views(2, 16, 8)
    loss_fn = ALL_LOSSES[name]()
    loss = loss_fn(z0.float(), z1)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(loss_fn(z0, z1).item(), rel=2e-5, abs=2e-5)


@all_losses
def test_terms_are_detached_and_make_up_the_value(name):
    z0, z1 = views(2, 8, 6)
    loss_fn = ALL_LOSSES[name]()
    loss = loss_fn(z0.requires_grad_(), z1.requires_grad_())
    terms = loss_fn.terms
    assert not any(term.requires_grad for term in terms.values())
    if name.startswith("mveb"):
        value = -(terms["alignment"] + 0.01 * terms["entropy_surrogate"])
    elif name == "mvib":
        value = 1e-3 * terms["divergence"] - terms["reconstruction"]
    else:
        value = -(terms["entropy"] + terms["reconstruction"])
    assert value.item() == pytest.approx(loss.item(), rel=1e-12)


@all_losses
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_half_precision_views_give_the_float32_value(name, dtype):
    z0, z1 = (z.to(dtype) for z in views(2, 16, 8))
    loss_fn = ALL_LOSSES[name]()
    torch.manual_seed(0)
    expected = loss_fn(z0.float(), z1.float())
    z0, z1 = z0.requires_grad_(), z1.requires_grad_()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=dtype):
        loss = loss_fn(z0, z1)
    assert loss.dtype == torch.float32
    # identical float32 arithmetic but for the order of sums
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for gradient in torch.autograd.grad(loss, [z0, z1]):
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()


IN_FLOAT32 = {name: make for name, make in ALL_LOSSES.items() if name != "mvib"}
IN_FLOAT32 |= {
    "koleo": lambda: ERLoss(estimator="koleo"),
    "corinfomax": lambda: CorInfoMaxLoss(8),
    "e2mc": E2MCLoss,
    "emp_ssl": EMPSSLLoss,
    "frossl": FroSSLLoss,
    "lejepa": lambda: LeJEPALoss(num_slices=6),
    "matrixssl": MatrixSSLLoss,
    "mec": MECLoss,
    "mmcr": MMCRLoss,
    "simdino": SimDINOLoss,
    "tico": lambda: TiCoLoss(8),
    "visreg": lambda: VISRegLoss(num_slices=6),
}


@pytest.mark.parametrize("rows", [300, 5])
@pytest.mark.parametrize("name", IN_FLOAT32)
def test_a_backward_pass_under_autocast_keeps_the_gradient_in_float32(name, rows):
    # In bfloat16 its products would be off by 2^-9 or so
    leaves = [z.float().requires_grad_() for z in views(2, rows, 8)]
    losses = []
    for _ in range(2):  # of the same state and draws
        torch.manual_seed(0)
        losses.append(IN_FLOAT32[name]()(*leaves))
    expected = torch.autograd.grad(losses[0], leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = torch.autograd.grad(losses[1], leaves)
    for a, b in zip(computed, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["er", "discrete_er", "entrec", "entrec_discrete", "mveb"])
def test_a_target_without_gradient_leaves_the_online_gradient_as_it_is(name):
    # An EMA branch: targets are constants, nothing asks for their gradient
    online, target = views(2, 6, 5, scale=0.2), views(2, 6, 5, seed=1, scale=0.2)
    leaves = [z.requires_grad_() for z in online]
    loss_fn = ALL_LOSSES[name]()
    constant = torch.autograd.grad(loss_fn(leaves, target), leaves)
    trained_target = [t.clone().requires_grad_() for t in target]
    learned = torch.autograd.grad(loss_fn(leaves, trained_target), leaves)
    for a, b in zip(constant, learned, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
        assert a.norm() > 1e-4


@pytest.mark.parametrize("name", ["er", "discrete_er", "entrec", "entrec_discrete", "mveb"])
def test_view_0_meets_target_1(name):
    # With target 1 equal to view 0 and target 0 equal to view 1 alignment is at its best; the
    # other way round it is not. (Two unrelated views, so that the two differ.)
    view0, view1 = views(1, 12, 6)[0], views(1, 12, 6, seed=9)[0]
    loss_fn = ALL_LOSSES[name]()
    crossed = loss_fn([view0, view1], [view1, view0]).item()
    straight = loss_fn([view0, view1], [view0, view1]).item()
    assert crossed < straight


def test_er_takes_the_entropy_of_other_rows_where_told():
    """With a predictor: H of the projections, reconstruction from the predictions."""
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    predictions, targets, projections = torch.randn(3, 2, 7, 5, **options).unbind()
    loss_fn = ERLoss(kappa=4.0)
    loss_fn(list(predictions), list(targets))
    reconstruction = loss_fn.terms["reconstruction"]
    loss_fn(list(projections), list(targets))
    entropy = loss_fn.terms["entropy"]
    loss = loss_fn(list(predictions), list(targets), list(projections))
    torch.testing.assert_close(loss, -(entropy + reconstruction))
    with pytest.raises(ValueError, match="one shape"):
        loss_fn(list(predictions), list(targets), [p[:3] for p in projections])


def test_discrete_er_takes_the_entropy_at_the_temperature_it_is_told():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 9, 5, generator=generator, dtype=torch.float64)
    loss_fn = DiscreteERLoss(0.5, 0.2, entropy_temperature=0.2)
    loss_fn(*logits)
    means = [(z / 0.2).softmax(dim=1).mean(dim=0) for z in logits]
    expected = sum(-(p * p.log()).sum() for p in means) / 2
    torch.testing.assert_close(loss_fn.terms["entropy"], expected)
    plain = DiscreteERLoss(0.5, 0.2)
    plain(*logits)
    torch.testing.assert_close(loss_fn.terms["reconstruction"], plain.terms["reconstruction"])
    assert plain.terms["entropy"] != loss_fn.terms["entropy"]
    with pytest.raises(ValueError, match=r"entropy_temperature=0\.0"):
        DiscreteERLoss(entropy_temperature=0.0)


@pytest.mark.parametrize("dim", [512, 8192, 65536])
@pytest.mark.parametrize("make", [ERLoss, lambda: ERLoss(estimator="plugin"), EntRecLoss])
def test_the_normaliser_does_not_round_what_is_left_of_it(make, dim):
    # it is 2e4 nats at d = 8192, of which float32 keeps 2e-3, and a part of both terms
    draws = torch.randn(2, 16, dim, generator=torch.Generator().manual_seed(0))
    narrow, wide = make(), make()
    loss, expected = narrow(*draws), wide(*draws.double())
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    terms = narrow.terms if isinstance(narrow, ERLoss) else narrow.bound.terms
    for name in ("entropy", "reconstruction"):
        assert terms[name].item() == pytest.approx(wide.terms[name].item(), abs=2e-5)
    assert terms["entropy"] + terms["reconstruction"] == pytest.approx(-loss.item(), abs=1e-5)


@pytest.mark.parametrize("dim", [512, 8192])
def test_mvib_in_float32_is_as_in_float64(dim):
    draws = torch.randn(2, 16, 2 * dim, generator=torch.Generator().manual_seed(0))
    values = []
    for z in (draws, draws.double()):
        loss_fn = MVIBLoss(multiplier=1.0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torch.distributions.Normal.rsample", lambda self: self.loc)
            values.append((loss_fn(*z).item(), loss_fn.terms["divergence"].item()))
    assert values[0] == pytest.approx(values[1], rel=2e-6)


# MVEB of rows that are not normalised -----------------------------------------------------------


@VIEWS
def test_mveb_of_rows_as_they_are_holds_views_together_by_half_their_squared_distance(number):
    online, target = online_and_target(number, count=6)
    online = [2.0 * z + 0.3 for z in online]
    leaves = [z.clone().requires_grad_() for z in online]
    loss_fn = MVEBLoss(beta=0.3, kernel="rbf", bandwidth_scale=2.0)
    loss = loss_fn(*leaves) if number is None else loss_fn(leaves, target)
    met = target if target is not None else leaves
    local = (met[0] + met[1]) / 2
    pairs = zip(leaves, [met[1], met[0], local, local], strict=False)
    near = sum(0.5 * (z - t).square().sum(1).mean() for z, t in pairs) / len(leaves)
    scores = [stein_score(z, kernel="rbf", bandwidth_scale=2.0) for z in online]
    spread = sum((s * z).sum(1).mean() for s, z in zip(scores, leaves, strict=True)) / len(leaves)
    expected = near + 0.3 * spread
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    assert loss_fn.terms["half_squared_distance"].item() == pytest.approx(near.item(), rel=1e-10)
    ours, theirs = (torch.autograd.grad(x, leaves) for x in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_groups_of_rows_as_they_are_have_a_score_each():
    z = [x.requires_grad_() for x in views(2, 12, 3)]
    MVEBLoss(0.3, score_rows=4, kernel="rbf")(*z).backward()
    parts = [torch.stack([x.detach()[i : i + 4] for x in z]).requires_grad_() for i in (0, 4, 8)]
    sum(MVEBLoss(0.3, kernel="rbf")(*part) / 3 for part in parts).backward()
    expected = torch.cat([part.grad for part in parts], dim=1)
    torch.testing.assert_close(torch.stack([x.grad for x in z]), expected, rtol=1e-9, atol=1e-12)


def test_the_weight_of_the_entropy_of_rows_as_they_are_only_says_how_long_they_are():
    # of s z, with s^2 = beta: the loss's gradient is s times that of z with beta = 1
    z = [x.requires_grad_() for x in views(2, 12, 3)]
    one = torch.autograd.grad(MVEBLoss(1.0, kernel="rbf")(*z), z)
    scaled = [(0.1 * x.detach()).requires_grad_() for x in z]
    other = torch.autograd.grad(MVEBLoss(0.01, kernel="rbf")(*scaled), scaled)
    for own, expected in zip(other, one, strict=True):
        torch.testing.assert_close(own, 0.1 * expected, rtol=1e-9, atol=1e-12)
