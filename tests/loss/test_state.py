"""State that losses move: once a step, in float32, in checkpoints, out of DDP's reach."""

import copy

import pytest
import torch
from lightly.loss import DINOLoss
from lightly.models.modules.center import Center
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from erssl.loss import (
    CorInfoMaxLoss,
    DiscreteERLoss,
    EntRecLoss,
    ERLoss,
    MVEBLoss,
    MVIBLoss,
    TiCoLoss,
    accumulate_state,
)
from erssl.loss.center import SteadyDINOLoss
from erssl.loss.state import hold_state, states_of
from erssl.methods.mocov2 import QueueContrastLoss
from erssl.methods.unigrad import UniGradLoss

DIM = 4
LOSSES = {
    "er": lambda: ERLoss(memory_bank_size=(40, DIM)),
    "entrec": lambda: EntRecLoss(memory_bank_size=(40, DIM)),
    "centre": lambda: DiscreteERLoss(center=True, output_dim=DIM),
    "dino": lambda: SteadyDINOLoss(DIM),
    "moco": lambda: QueueContrastLoss(0.2, (40, DIM), gather_distributed=False),
    "unigrad": lambda: UniGradLoss(DIM, 100.0, 0.9),
}
STATEFUL = {**LOSSES, "mine": lambda: MVIBLoss(estimator="mine", dim=DIM // 2)}


def call(loss_fn, z):
    """A loss of views (V, N, d)."""
    z = z.clone().requires_grad_()
    if isinstance(loss_fn, DINOLoss):
        return loss_fn(list(z[:2]), list(z[:2]))
    if isinstance(loss_fn, UniGradLoss):
        return loss_fn(z[0], z[1], z[1], z[0])
    return loss_fn(z[0], z[1])


def batch(step, n=12):
    return torch.randn(2, n, DIM, generator=torch.Generator().manual_seed(step))


def state(loss_fn):
    return {key: value.clone() for key, value in loss_fn.state_dict().items()}


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_of_small_batches_moves_state_as_the_whole_batch_does(name):
    torch.manual_seed(0)  # queues begin with random rows, which they do not hand out
    whole = LOSSES[name]()
    parts, together = copy.deepcopy(whole), copy.deepcopy(whole)
    for step in range(3):
        call(whole, batch(step))
        before = state(parts)
        with accumulate_state(parts):
            for part in batch(step).split((5, 3, 4), dim=1):
                call(parts, part)
                own = state(parts)
                assert all(torch.equal(own[key], value) for key, value in before.items())
        torch.testing.assert_close(state(parts), state(whole), rtol=1e-5, atol=1e-6)
    for step in range(3):
        for part in batch(step).split((5, 3, 4), dim=1):  # without: as many moves as calls
            call(together, part)
    moved = zip(state(together).values(), state(whole).values(), strict=True)
    if name != "moco":  # whose rows of one view are in the same order then
        assert max(float((a.float() - b.float()).abs().max()) for a, b in moved) > 1e-3


def test_mines_average_moves_once_by_the_mean_over_the_step():
    loss_fn = STATEFUL["mine"]()
    means = []
    with accumulate_state(loss_fn):
        for step, n in enumerate((5, 3)):
            z0, z1 = batch(step, n)
            with pytest.MonkeyPatch.context() as patch:  # samples are the means
                patch.setattr("torch.distributions.Normal.rsample", lambda self: self.loc)
                call(loss_fn, torch.stack([z0, z1]))
            samples = z0[:, :2], z1[:, :2].roll(1, dims=0)
            means.append(loss_fn.mine.critic(torch.cat(samples, dim=1)).exp().flatten())
            assert loss_fn.mine.log_average.isnan()
    expected = torch.cat(means).mean().log()
    torch.testing.assert_close(loss_fn.mine.log_average, expected.detach())


def test_after_an_error_a_step_has_given_nothing():
    loss_fn = LOSSES["er"]()
    with pytest.raises(KeyError), accumulate_state(loss_fn):
        call(loss_fn, batch(0))
        raise KeyError
    assert loss_fn.memory_bank.rows() is None
    call(loss_fn, batch(1))
    assert len(loss_fn.memory_bank.rows()) == 24


@pytest.mark.parametrize("name", STATEFUL)
def test_a_checkpoint_inside_a_step_holds_what_the_step_has_given(name):
    torch.manual_seed(0)
    loss_fn = STATEFUL[name]()
    call(loss_fn, batch(9))
    with hold_state(states_of(loss_fn)):
        call(loss_fn, batch(0))
        resumed = STATEFUL[name]()
        resumed.load_state_dict(loss_fn.state_dict())
        assert any("pending" in key for key in resumed.state_dict())
        for one in (loss_fn, resumed):
            with hold_state(states_of(one)):
                torch.manual_seed(1)
                call(one, batch(1))
    for one in (loss_fn, resumed):
        for moving in states_of(one):
            moving.commit()
    assert all(torch.equal(a, state(resumed)[key]) for key, a in state(loss_fn).items())
    assert not any("pending" in key for key in resumed.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", STATEFUL)
def test_state_is_never_of_half_precision(name, dtype):
    loss_fn = STATEFUL[name]()
    call(loss_fn, batch(0))
    before = state(loss_fn)
    loss_fn.to(dtype)
    kept = {n: v for m in states_of(loss_fn) for n, v in m.named_state()}
    least = {n: v for m in states_of(STATEFUL[name]()) for n, v in m.named_state()}
    for key, value in kept.items():
        if value.is_floating_point():
            assert value.dtype == torch.promote_types(dtype, least[key].dtype)
            assert least[key].dtype in (torch.float32, torch.float64)
    for key, value in before.items():
        if "critic" not in key:
            assert torch.equal(loss_fn.state_dict()[key].to(value.dtype), value)


def test_moments_in_float64_stay_so_and_make_the_loss_of_a_float64_module():
    """A float32 module of CorInfoMax has the moments that its docstring says."""
    ours, theirs = CorInfoMaxLoss(64), CorInfoMaxLoss(64).double()
    generator = torch.Generator().manual_seed(0)
    for step in range(12):
        z = torch.randn(16, 64, generator=generator).requires_grad_()
        gradients = [torch.autograd.grad(loss(z, z * 1), z)[0] for loss in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-7)
        ours = ours.float() if step % 2 else ours.half()
    assert {value.dtype for _, value in ours.named_state()} == {torch.float64}


@pytest.mark.parametrize("make", [lambda: CorInfoMaxLoss(4), lambda: TiCoLoss(4)])
def test_what_is_only_read_moves_no_state(make):
    """Validation without a gradient, whether or not torch records one."""
    loss_fn = make()
    before = state(loss_fn)
    loss_fn(*torch.randn(2, 8, 4))
    assert all(torch.equal(value, before[key]) for key, value in state(loss_fn).items())
    loss_fn(*torch.randn(2, 8, 4, requires_grad=True))
    assert not all(torch.equal(value, before[key]) for key, value in state(loss_fn).items())


def test_state_follows_to_another_device():
    loss_fn = LOSSES["er"]().to("meta")
    assert {value.device.type for value in loss_fn.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("name", STATEFUL)
def test_state_is_no_buffer_and_copies_have_their_own(name):
    loss_fn = STATEFUL[name]()
    assert not any(list(child.buffers(recurse=False)) for child in states_of(loss_fn))
    copied = copy.deepcopy(loss_fn)
    call(copied, batch(0))
    fresh = STATEFUL[name]()
    for key, value in state(loss_fn).items():
        if "critic" not in key and not key.endswith("bank"):  # begins with random rows
            torch.testing.assert_close(value, state(fresh)[key], equal_nan=True)


def test_checkpoints_of_lightlys_modules_are_read():
    # those of earlier builds, which had lightly's centre and buffers of the same names
    theirs, ours = Center((1, DIM), momentum=0.9), LOSSES["centre"]()
    theirs.update(batch(0)[0])
    ours.load_state_dict({"center.center": theirs.center})
    torch.testing.assert_close(ours.center.value, theirs.value)
    theirs, ours = DINOLoss(DIM), LOSSES["dino"]()
    call(theirs, batch(0))
    ours.load_state_dict(theirs.state_dict())
    assert ours.center.abs().max() > 0
    torch.testing.assert_close(call(ours, batch(1)), call(theirs, batch(1)))
    torch.testing.assert_close(ours.center, theirs.center)
    torch.testing.assert_close(ours.state_dict(), dict(theirs.state_dict()))


def test_state_that_does_not_fit_is_named():
    with pytest.raises(RuntimeError, match=r"size mismatch for memory_bank\.bank: the checkpoint"):
        LOSSES["er"]().load_state_dict(ERLoss(memory_bank_size=(8, DIM)).state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*center\.center"):
        LOSSES["centre"]().load_state_dict({})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*center\.other"):
        own = state(LOSSES["centre"]())
        LOSSES["centre"]().load_state_dict({**own, "center.other": torch.zeros(1)})


class Mine(nn.Module):
    """A user's own module around a loss."""

    def __init__(self, loss_fn):
        super().__init__()
        self.layer, self.loss_fn = nn.Linear(DIM, DIM), loss_fn

    def forward(self, z):
        return call(self.loss_fn, self.layer(z).detach()) + self.layer(z).sum()


def _own_states(rank, world, name):
    torch.manual_seed(0)
    module = Mine(LOSSES[name]())
    ddp = DistributedDataParallel(module)
    for step in range(2):
        ddp(batch(10 * rank + step)).backward()
    return state(module.loss_fn)


@pytest.mark.parametrize("name", ["er", "moco"])
def test_a_users_own_ddp_leaves_each_ranks_queue_alone(gloo, name):
    # DDP sends the first rank's buffers to all before every step
    first, second = gloo.run(2, _own_states, name)
    queue = next(v for key, v in first.items() if key.endswith("bank"))
    other = next(v for key, v in second.items() if key.endswith("bank"))
    filled = next(int(v) for key, v in first.items() if key.endswith("filled"))
    assert filled >= 24
    assert torch.cdist(queue[:filled], other[:filled]).min() > 1e-6


def _centre(rank, world, accumulated):
    loss_fn = LOSSES["dino"]()
    whole = batch(0, 12)
    share = whole[:, rank * 12 // world : (rank + 1) * 12 // world]
    with accumulate_state(loss_fn):
        for part in share.split(len(share[0]) // accumulated, dim=1):
            call(loss_fn, part)
    return loss_fn.center.clone()


def test_a_centre_over_ranks_and_small_batches_is_that_of_one_batch(gloo):
    expected = _centre(0, 1, 1)
    for accumulated in (1, 3):
        for center in gloo.run(2, _centre, accumulated):
            torch.testing.assert_close(center, expected)


def test_a_loss_made_and_called_in_a_half_precision_context_is_of_float32_inside():
    # Lightning's "true" half precision sets torch's default while a module is made
    torch.set_default_dtype(torch.bfloat16)
    try:
        losses = {name: make() for name, make in STATEFUL.items()}
        score = MVEBLoss()
        z0, z1 = batch(0).to(torch.bfloat16)
        value = score(z0, z1)
    finally:
        torch.set_default_dtype(torch.float32)
    for loss_fn in losses.values():
        for child in states_of(loss_fn):
            for _, value_kept in child.named_state():
                assert value_kept.dtype in (torch.float32, torch.int64)
    torch.testing.assert_close(value, MVEBLoss()(z0.float(), z1.float()))
