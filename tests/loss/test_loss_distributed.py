"""Two gloo processes with gather_distributed equal one process on the whole batch.

All scenarios run in one pair of processes, since starting them costs more than the losses. A
scenario trains a linear layer for three steps with the gradient averaged over ranks (as DDP
does), so that queues and centres have a history. Float64.
"""

import traceback

import pytest
import torch
import torch.distributed as dist
from torch.distributions import Normal

from erssl.loss import DiscreteERLoss, EntRecLoss, ERLoss, MVEBLoss, MVIBLoss

from ..gloo import WORLD, results_of_ranks, start_rank

TOTAL, IN_DIM, OUT_DIM, STEPS = 8, 5, 4, 3


def _er(estimator="joe", leave_one_out=True, memory=0):
    return lambda gather: ERLoss(
        kappa=6.0,
        estimator=estimator,
        leave_one_out=leave_one_out,
        gather_distributed=gather,
        memory_bank_size=(memory, OUT_DIM) if memory else 0,
    )


LOSSES = {
    "er": _er(),
    "er self term": _er(leave_one_out=False),
    "er plugin": _er("plugin"),
    "er plugin self term": _er("plugin", leave_one_out=False),
    # A step offers 2 * 8 = 16 rows: never full, full and wrapped, straddled, less than one step
    "er memory 64": _er(memory=64),
    "er plugin self term memory 64": _er("plugin", leave_one_out=False, memory=64),
    "er memory 32": _er(memory=32),
    "er memory 24": _er(memory=24),
    "er memory 6": _er(memory=6),
    "mveb": lambda gather: MVEBLoss(beta=0.3, gather_distributed=gather),
    "mveb sphere": lambda gather: MVEBLoss(
        beta=0.3, eta=1.0, geometry="sphere", gather_distributed=gather
    ),
    "mveb normalised": lambda gather: MVEBLoss(
        beta=0.3, normalize_local_target=True, gather_distributed=gather
    ),
    "discrete": lambda gather: DiscreteERLoss(0.5, 0.3, gather_distributed=gather),
    "discrete centre": lambda gather: DiscreteERLoss(
        0.5, 0.3, center=True, output_dim=OUT_DIM, gather_distributed=gather
    ),
    "entrec": lambda gather: EntRecLoss(temperature=0.2, gather_distributed=gather),
    "entrec memory 64": lambda gather: EntRecLoss(
        temperature=0.2, gather_distributed=gather, memory_bank_size=(64, OUT_DIM)
    ),
    "entrec discrete": lambda gather: EntRecLoss("discrete", gather_distributed=gather),
    "mvib": lambda gather: MVIBLoss(multiplier=0.3, gather_distributed=gather),
    "mvib mine": lambda gather: _mine(gather),
    "mvib mige": lambda gather: MVIBLoss(0.3, gather_distributed=gather, estimator="mige"),
}


def _mine(gather):
    torch.manual_seed(0)  # one critic on all ranks, as DDP sees to
    loss = MVIBLoss(0.3, gather_distributed=gather, estimator="mine", dim=OUT_DIM // 2)
    return loss.double()


# Two tensors of a shared branch, or 2 + 2 online views against the two targets of another branch
SCENARIOS = [(name, views) for name in LOSSES for views in ("pair", "multi-crop")]
for _name in ("mvib", "mvib mine", "mvib mige"):
    SCENARIOS.remove((_name, "multi-crop"))


def _train(name, views, rank, world, gather=True):
    """Three steps of one scenario on this rank's share: losses, terms, averaged gradients."""
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    images = torch.randn(STEPS, 4, TOTAL, IN_DIM, **options)
    images = images[:, :1] + 0.5 * images
    weight = torch.randn(OUT_DIM, IN_DIM, **options).requires_grad_()
    target_weight = torch.randn(OUT_DIM, IN_DIM, **options)
    noise = torch.randn(STEPS, 2, TOTAL, OUT_DIM // 2, **options)
    share = slice(rank * TOTAL // world, (rank + 1) * TOTAL // world)

    loss_fn = LOSSES[name](gather)
    history = {"loss": [], "terms": [], "gradient": []}
    for step in range(STEPS):
        online = [x[share] @ weight.T for x in images[step]]
        draws = iter(noise[step][:, share])
        with pytest.MonkeyPatch.context() as patch:
            # MVIB samples: each rank must draw its share of what one process draws
            patch.setattr(
                Normal,
                "rsample",
                lambda self, _shape=(), draws=draws: self.loc + self.scale * next(draws),
            )
            if views == "pair":
                loss = loss_fn(online[0], online[1])
            else:
                target = [x[share] @ target_weight.T for x in images[step, :2]]
                loss = loss_fn(online, target)
        (gradient,) = torch.autograd.grad(loss, weight)
        if world > 1:
            dist.all_reduce(gradient)
            gradient /= world
        history["loss"].append(loss.detach())
        history["terms"].append({k: v.clone() for k, v in loss_fn.terms.items()})
        history["gradient"].append(gradient)
        weight = (weight - 0.1 * gradient).detach().requires_grad_()
    return history


def _worker(rank, folder):
    start_rank(rank, folder)
    results = {}
    for name, views in SCENARIOS:
        try:
            results[name, views] = _train(name, views, rank, WORLD)
        except Exception:  # the other scenarios still have something to say
            results[name, views] = traceback.format_exc()
    results["not gathered"] = _train("er", "pair", rank, WORLD, gather=False)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return results_of_ranks(_worker, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize(("name", "views"), SCENARIOS)
def test_two_processes_equal_one_in_value_terms_and_gradient(ranks, name, views):
    expected = _train(name, views, rank=0, world=1)
    histories = [results[name, views] for results in ranks]
    for history in histories:
        assert isinstance(history, dict), history
    # float64; queues and centres are float32 in both, with rows rounded alike
    tolerance = {"rtol": 1e-6, "atol": 1e-6}
    for step in range(STEPS):
        for history in histories:
            torch.testing.assert_close(
                history["gradient"][step], expected["gradient"][step], **tolerance
            )
        losses = torch.stack([history["loss"][step] for history in histories])
        for rank, loss in enumerate(losses):
            torch.testing.assert_close(loss, expected["loss"][step], **tolerance)
            terms = histories[rank]["terms"][step]
            torch.testing.assert_close(terms, expected["terms"][step], **tolerance)


def test_without_gathering_each_rank_sees_its_own_rows_only(ranks):
    # The papers' runs did this. It also shows that the equality above is not trivial.
    expected = _train("er", "pair", rank=0, world=1)["loss"][0]
    losses = [results["not gathered"]["loss"][0] for results in ranks]
    assert all(abs(loss - expected) > 1e-3 for loss in losses)
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize(("name", "views"), SCENARIOS)
def test_gathering_on_one_process_changes_nothing(name, views):
    gathered = _train(name, views, rank=0, world=1)
    plain = _train(name, views, rank=0, world=1, gather=False)
    for step in range(STEPS):
        assert torch.equal(gathered["loss"][step], plain["loss"][step])
        assert torch.equal(gathered["gradient"][step], plain["gradient"][step])
