"""Losses under second derivatives, ``torch.func``, ``torch.compile`` and ``torch.export``."""

import copy

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jacrev, vmap

from erssl.entropy._kernel_sums import log_kernel_sums
from erssl.entropy.precision import product, row_products
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
from erssl.loss._softmax import softmax_terms
from erssl.loss.views import normalize_rows

N, DIM = 6, 4
TWICE = {
    "er": ERLoss,
    "er plugin": lambda: ERLoss(estimator="plugin"),
    "er self term": lambda: ERLoss(leave_one_out=False),
    "entrec": EntRecLoss,
    "entrec discrete": lambda: EntRecLoss("discrete"),
    "discrete": DiscreteERLoss,
    "discrete centre": lambda: DiscreteERLoss(center=True, output_dim=DIM),
}
ALL = {
    **TWICE,
    "mveb": MVEBLoss,
    "mveb groups": lambda: MVEBLoss(score_rows=3),
    "mveb sphere": lambda: MVEBLoss(eta="auto", geometry="sphere"),
    "mvib": MVIBLoss,
    "mvib mige": lambda: MVIBLoss(estimator="mige"),
    "mvib mine": lambda: mine(),
}

SMOOTH = {
    "e2mc": E2MCLoss,
    "koleo": lambda: ERLoss(estimator="koleo"),
    "lejepa": lambda: LeJEPALoss(num_slices=3),
    "matrixssl": MatrixSSLLoss,
    "mec": MECLoss,
    "mmcr": MMCRLoss,
    "simdino": SimDINOLoss,
}
TRANSFORMED = {
    **ALL,
    **SMOOTH,
    "corinfomax": lambda: CorInfoMaxLoss(DIM),
    "emp_ssl": EMPSSLLoss,
    "frossl": FroSSLLoss,
    "mveb kde": lambda: MVEBLoss(entropy="kde", bandwidth=0.2),
    "mveb knn": lambda: MVEBLoss(entropy="knn"),
    "tico": lambda: TiCoLoss(DIM),
    "visreg": lambda: VISRegLoss(num_slices=3),
}


def mine():
    torch.manual_seed(0)
    return MVIBLoss(estimator="mine", dim=DIM // 2).double()


def rows(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, DIM, generator=generator, dtype=torch.float64)


def leaf(seed):
    return rows(N, seed=seed).requires_grad_()


def again(function):
    """The value of a function that may draw, always of the same draws."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return function()


@pytest.mark.parametrize(
    "function",
    [
        normalize_rows,
        lambda z: row_products(z, rows(N, seed=1)),
        lambda z: row_products(z, z),
        lambda z: product(z, z.T),
        lambda z: log_kernel_sums(z, z, 3.0),
        lambda z: log_kernel_sums(z, z, 3.0, 0),
        lambda z: softmax_terms(z, None, 0.5)[0],
        lambda z: softmax_terms(z, rows(N, seed=1).softmax(1), 0.5),
        lambda z: softmax_terms(rows(N, seed=1), z.softmax(1), 0.5),
    ],
)
def test_operations_with_a_gradient_of_their_own_have_a_second_one(function):
    assert gradcheck(function, (leaf(0),))
    assert gradgradcheck(function, (leaf(0),))


@pytest.mark.parametrize("name", TWICE | SMOOTH)
def test_second_derivatives_are_those_of_finite_differences(name):
    def loss(*views):
        return again(lambda: TRANSFORMED[name]()(*views))

    assert gradgradcheck(loss, (leaf(0), leaf(1)))
    local = rows(N, seed=2)
    assert gradgradcheck(lambda a, t: loss([a, a * a, local], [t, a]), (leaf(0), leaf(1)))


@pytest.mark.parametrize("name", ["mveb", "mvib mige"])
def test_a_second_derivative_of_an_estimated_score_is_refused(name):
    z = leaf(0)
    (gradient,) = torch.autograd.grad(ALL[name]()(z, rows(N, seed=1)), z, create_graph=True)
    with pytest.raises(RuntimeError, match="has a first derivative only"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("name", TRANSFORMED)
def test_torch_func_gives_autograds_gradient_and_maps_over_batches(name):
    loss = TRANSFORMED[name]()
    a, b = rows(3, N), rows(3, N, seed=1)
    state = {key: value.clone() for key, value in loss.state_dict().items()}

    def plain(*views):
        return copy.deepcopy(loss)(*views)

    z = a[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(again(lambda: plain(z, b[0])), z)
    torch.testing.assert_close(again(lambda: grad(loss)(a[0], b[0])), expected)
    mapped = vmap(loss, randomness="same")
    values = torch.stack([again(lambda p=p, q=q: plain(p, q)) for p, q in zip(a, b, strict=True)])
    torch.testing.assert_close(again(lambda: mapped(a, b)), values)
    one = vmap(loss, in_dims=(None, 1), randomness="same")
    values = torch.stack([again(lambda q=q: plain(a[0], q)) for q in b])
    torch.testing.assert_close(again(lambda: one(a[0], b.transpose(0, 1))), values)
    gradients = vmap(grad(loss), randomness="same")
    values = torch.stack([again(lambda p=p, q=q: grad(loss)(p, q)) for p, q in zip(a, b)])  # noqa: B905
    torch.testing.assert_close(again(lambda: gradients(a, b)), values)
    torch.testing.assert_close(dict(loss.state_dict()), state, rtol=0, atol=0, equal_nan=True)
    called = again(lambda: functional_call(loss, dict(loss.named_parameters()), (a[0], b[0])))
    loss.load_state_dict(state)
    torch.testing.assert_close(called, again(lambda: plain(a[0], b[0])))


def test_torch_func_takes_second_derivatives():
    b = rows(N, seed=1)
    hessian = jacrev(jacrev(lambda z: ERLoss()(z, b)))(rows(N))
    expected = torch.autograd.functional.hessian(lambda z: ERLoss()(z, b), rows(N))
    torch.testing.assert_close(hessian, expected)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("name", ALL)
def test_compiled_whole_a_loss_and_its_state_stay_the_same(name):
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        module = ALL[name]()
        function = module
        if compiled:
            function = torch.compile(module, fullgraph=True, backend="aot_eager")
        z0, z1 = leaf(0), leaf(1)
        loss = again(lambda f=function: f(z0, z1))  # noqa: B023
        loss.backward()
        loss = again(lambda f=function: f(z0, z1))  # noqa: B023  # a centre has moved
        state = [v.clone() for v in module.state_dict().values()]
        results.append([loss.detach(), z0.grad, z1.grad, *module.terms.values(), *state])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


@pytest.mark.parametrize("name", ALL)
def test_an_exported_loss_gives_the_same_value(name):
    module = ALL[name]().eval()
    z = rows(N), rows(N, seed=1)
    with torch.no_grad():
        program = torch.export.export(module, z)
        exported = again(lambda: program.module()(*z))
        torch.testing.assert_close(exported, again(lambda: module(*z)))


@pytest.mark.parametrize("rule", ["best", "learned"])
def test_a_rule_for_the_concentration_is_refused_in_one_sentence(rule):
    loss, a, b = ERLoss(kappa=rule), rows(3, N), rows(3, N, seed=1)
    state = copy.deepcopy(loss.state_dict())
    refused = pytest.raises(
        RuntimeError, match=rf"^kappa='{rule}' reads .*; give kappa a number\.$"
    )
    with refused:
        grad(loss)(a[0], b[0])
    with refused:
        vmap(loss)(a, b)
    with refused:
        jacrev(loss)(a[0], b[0])
    said = pytest.raises(Exception, match=rf"kappa='{rule}' reads")
    with said:
        torch.export.export(loss, (a[0], b[0]))
    torch._dynamo.reset()
    with said:
        torch.compile(loss, fullgraph=True, backend="eager")(leaf(0), leaf(1))
    torch.testing.assert_close(dict(loss.state_dict()), dict(state), rtol=0, atol=0)
    called = functional_call(loss, {}, (a[0], b[0]))
    torch.testing.assert_close(called, ERLoss(kappa=rule)(a[0], b[0]))


def test_a_rule_for_the_concentration_works_in_parts():
    torch._dynamo.reset()
    a, b = rows(N), rows(N, seed=1)
    losses = [ERLoss(kappa="learned") for _ in range(2)]
    for loss in losses:
        loss.concentration.log_kappa.fill_(1.0)
    torch.testing.assert_close(torch.compile(losses[0], backend="eager")(a, b), losses[1](a, b))
    assert losses[0].terms["kappa"] == losses[1].terms["kappa"] != 10.0


def test_a_queue_in_a_whole_graph_is_refused_and_works_in_parts():
    torch._dynamo.reset()
    losses = [ERLoss(memory_bank_size=(32, DIM)) for _ in range(2)]
    whole = torch.compile(losses[0], fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="queue cannot be part of a whole graph"):
        whole(leaf(0), leaf(1))
    torch._dynamo.reset()
    in_parts = torch.compile(losses[0], backend="eager")
    for step in range(3):
        torch.testing.assert_close(in_parts(leaf(step), leaf(9)), losses[1](leaf(step), leaf(9)))
    torch.testing.assert_close(losses[0].memory_bank.rows(), losses[1].memory_bank.rows())
