"""Every error is one sentence that says what was given and what is possible."""

import pytest
import torch

from erssl.loss import DiscreteERLoss, E2MCLoss, EntRecLoss, ERLoss, MVEBLoss, MVIBLoss

PAIRING = {
    "er": ERLoss,
    "discrete_er": DiscreteERLoss,
    "entrec": EntRecLoss,
    "entrec_discrete": lambda: EntRecLoss("discrete"),
    "mveb": MVEBLoss,
}
pairing_losses = pytest.mark.parametrize("name", PAIRING)
EVERY_LOSS = (ERLoss, DiscreteERLoss, EntRecLoss, MVEBLoss, MVIBLoss)


def z(count=4, dim=3):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [ERLoss, DiscreteERLoss])
@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ((-1.0, 1.0), "entropy_weight must be at least 0 and finite but is -1.0"),
        ((1.0, float("inf")), "reconstruction_weight must be at least 0 and finite but is inf"),
        ((0.0, 0.0), "both 0, which leaves no loss"),
    ],
)
def test_weights_that_make_no_loss_are_refused(make, weights, said):
    with pytest.raises(ValueError, match=said):
        make(entropy_weight=weights[0], reconstruction_weight=weights[1])


@pytest.mark.parametrize(
    "name",
    [
        "invariance_weight",
        "entropy_weight",
        "covariance_weight",
        "vicreg_variance_weight",
        "vicreg_covariance_weight",
    ],
)
def test_a_weight_of_e2mc_is_kept_and_refused_by_its_name(name):
    assert getattr(E2MCLoss(**{name: 3.5}), name) == 3.5
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"^{name} must be at least 0 and finite but is"):
            E2MCLoss(**{name: weight})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"eta": "large"}, r"eta must be a number or 'auto' but is 'large'\."),
        ({"bandwidth": -1.0}, "bandwidth must be above 0 or None but is -1.0"),
        ({"geometry": "torus"}, "must be 'euclidean' or 'sphere' but is 'torus'"),
        ({"shrink_to": "mean"}, "shrink to 'zero' or 'vmf' but shrink_to='mean'"),
        ({"bandwidth_scale": 0.0}, "must be a factor above 0 or 'auto' but is 0.0"),
        ({"kernel": "imq"}, "must be 'vmf' or 'rbf' but is 'imq'"),
        ({"kernel": "rbf", "eta": "auto"}, "numbers for eta"),
    ],
)
def test_options_that_make_no_score_are_refused_before_any_rows(monkeypatch, options, said):
    monkeypatch.setattr("erssl.loss.mveb.stein_score", None)
    with pytest.raises(ValueError, match=said):
        MVEBLoss(**options)
    assert MVEBLoss().eta == 0.01


@pairing_losses
def test_a_tensor_does_not_meet_a_list(name):
    message = r"Pass either two tensors, loss\(z0, z1\), or two lists, loss\(online, target\)\."
    with pytest.raises(ValueError, match=message):
        PAIRING[name]()(z(), [z(), z()])
    with pytest.raises(ValueError, match=message):
        PAIRING[name]()([z(), z()], z())


@pairing_losses
@pytest.mark.parametrize(("online", "target"), [(1, 2), (2, 1), (2, 3), (4, 4)])
def test_numbers_of_views_that_do_not_fit_are_given(name, online, target):
    message = (
        r"Lists must hold at least 2 online views and exactly 2 targets but hold "
        rf"{online} and {target}\."
    )
    with pytest.raises(ValueError, match=message):
        PAIRING[name]()([z()] * online, [z()] * target)


@pairing_losses
def test_an_empty_list_is_named_too(name):
    with pytest.raises(ValueError, match="but hold 0 and 2"):
        PAIRING[name]()([], [z(), z()])


@pairing_losses
def test_shapes_that_differ_are_given(name):
    message = r"All views must have one shape \(N, d\) with N of at least 1 but have "
    with pytest.raises(ValueError, match=message + r"\[\(3, 3\), \(4, 3\)\]\."):
        PAIRING[name]()(z(3), z(4))
    with pytest.raises(ValueError, match=message + r"\[\(4, 2\), \(4, 3\)\]\."):
        PAIRING[name]()(z(dim=2), z(dim=3))
    with pytest.raises(ValueError, match=message + r"\[\(3, 3\), \(4, 3\)\]\."):
        PAIRING[name]()([z(), z(), z(3)], [z(), z()])
    with pytest.raises(ValueError, match=message + r"\[\(2, 4, 3\)\]\."):
        PAIRING[name]()(z().repeat(2, 1, 1), z().repeat(2, 1, 1))
    with pytest.raises(ValueError, match=message + r"\[\(4,\)\]\."):
        PAIRING[name]()(torch.ones(4), torch.ones(4))


@pairing_losses
def test_targets_of_two_shapes_are_named_also_with_local_views(name):
    with pytest.raises(ValueError, match=r"All views must have one shape"):
        PAIRING[name]()([z(), z(), z()], [z(), z(3)])


@pairing_losses
def test_an_empty_batch_is_named(name):
    with pytest.raises(ValueError, match=r"with N of at least 1 but have \[\(0, 3\)\]\."):
        PAIRING[name]()(z(0), z(0))


@pytest.mark.parametrize("kappa", [0, -1.0, float("nan")])
def test_er_names_a_concentration_that_is_not_above_0(kappa):
    with pytest.raises(ValueError, match=f"kappa must be above 0 but is {kappa}"):
        ERLoss(kappa=kappa)


def test_er_names_an_unknown_estimator():
    with pytest.raises(
        ValueError, match=r"must be 'joe', 'plugin', 'renyi2' or 'koleo' but is 'kde'\."
    ):
        ERLoss(estimator="kde")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kappa": "adaptive"}, "a number, 'best' or 'learned' but is 'adaptive'"),
        ({"kappa": "best", "estimator": "koleo"}, "give kappa a number"),
        ({"kappa": "learned", "leave_one_out": False}, "give kappa a number"),
        ({"reconstruction_kappa": 0.0}, "reconstruction_kappa must be above 0 but is 0.0"),
    ],
)
def test_er_names_a_rule_for_the_concentration_that_cannot_be(options, said):
    with pytest.raises(ValueError, match=said):
        ERLoss(**options)


def test_entrec_names_an_unknown_kind_and_a_bad_temperature():
    with pytest.raises(ValueError, match=r"must be 'continuous' or 'discrete' but is 'both'\."):
        EntRecLoss("both")
    for temperature in (0, -0.1, float("nan")):
        message = f"temperature must be above 0 but is {temperature}"
        with pytest.raises(ValueError, match=message):
            EntRecLoss(temperature=temperature)


def test_discrete_er_names_bad_temperatures_and_a_missing_output_dim():
    message = "must be above 0 but are temperature={}, target_temperature={} and"
    with pytest.raises(ValueError, match=message.format("0", "0.04")):
        DiscreteERLoss(temperature=0)
    with pytest.raises(ValueError, match=message.format("0.1", "-1")):
        DiscreteERLoss(target_temperature=-1)
    with pytest.raises(ValueError, match=r"center=True needs output_dim, the number of outputs K"):
        DiscreteERLoss(center=True)


def test_discrete_er_needs_two_outputs():
    with pytest.raises(ValueError, match=r"Discrete outputs need K of at least 2 but K is 1\."):
        DiscreteERLoss()(z(dim=1), z(dim=1))


def test_a_centre_of_another_size_than_the_logits_is_a_value_error():
    # Not a broadcasting failure out of the middle of the computation
    with pytest.raises(ValueError, match=r"5.*3|3.*5"):
        DiscreteERLoss(center=True, output_dim=5)(z(), z())


def test_mveb_names_bad_options_when_it_is_made_not_when_it_is_called():
    for beta in (-0.01, float("nan")):
        with pytest.raises(ValueError, match=f"beta must be at least 0 but is {beta}"):
            MVEBLoss(beta=beta)
    with pytest.raises(ValueError, match=r"eta must be at least 0 and finite but is -1\."):
        MVEBLoss(eta=-1)
    with pytest.raises(ValueError, match=r"eta must be a number or 'auto' but is 'automatic'\."):
        MVEBLoss(eta="automatic")
    with pytest.raises(ValueError, match=r"must be 'euclidean' or 'sphere' but is 'torus'\."):
        MVEBLoss(geometry="torus")
    with pytest.raises(ValueError, match=r"bandwidth must be above 0 or None but is 0\."):
        MVEBLoss(bandwidth=0)


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_gathering_without_torch_distributed_is_refused(loss, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    message = (
        r"gather_distributed is True but torch\.distributed is not available\. Please set "
        r"gather_distributed=False or install a torch version with distributed support\."
    )
    with pytest.raises(ValueError, match=message):
        loss(gather_distributed=True)
    loss(gather_distributed=False)
