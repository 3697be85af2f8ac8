"""Two and four gloo processes with gather_distributed equal one process on the whole batch.

A scenario trains a linear layer, and the critic where the loss has one, for three steps under
DistributedDataParallel, so that queues and centres have a history.
"""

from itertools import product

import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.nn.parallel import DistributedDataParallel

from erssl.entropy import _triangle, stein_score
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
from erssl.loss._score import own_scores, shares_of

from ..gloo import prepared

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
    "mveb auto": lambda gather: MVEBLoss(
        beta=0.3, eta="auto", geometry="sphere", gather_distributed=gather
    ),
    # groups of 3, 3 and 2 rows, of 4 and of 2: straddling ranks, and for 4 ranks fewer than them
    "mveb rows 3": lambda gather: MVEBLoss(beta=0.3, gather_distributed=gather, score_rows=3),
    "mveb rows 4": lambda gather: MVEBLoss(beta=0.3, gather_distributed=gather, score_rows=4),
    "mveb rows 2": lambda gather: MVEBLoss(beta=0.3, gather_distributed=gather, score_rows=2),
    "mveb stable": lambda gather: MVEBLoss(
        0.3, "auto", "sphere", gather_distributed=gather, score_rows=5, shrink_to="vmf"
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
    "er best": lambda gather: ERLoss("best", gather_distributed=gather),
    "er learned": lambda gather: ERLoss("learned", gather_distributed=gather),
    "er renyi2": _er("renyi2"),
    "mveb kde rows 3": lambda gather: MVEBLoss(
        0.3, bandwidth=0.2, gather_distributed=gather, score_rows=3, entropy="kde"
    ),
    "mveb knn": lambda gather: MVEBLoss(0.3, gather_distributed=gather, entropy="knn"),
    "mveb rbf": lambda gather: MVEBLoss(0.3, gather_distributed=gather, kernel="rbf"),
    "mveb bandwidth": lambda gather: MVEBLoss(
        0.3, gather_distributed=gather, bandwidth_scale="auto"
    ),
    "er koleo": lambda gather: ERLoss(6.0, "koleo", gather_distributed=gather),
    "corinfomax": lambda gather: CorInfoMaxLoss(OUT_DIM, 5.0, gather_distributed=gather),
    "e2mc": lambda gather: E2MCLoss(gather_distributed=gather),
    "emp_ssl": lambda gather: EMPSSLLoss(gather_distributed=gather),
    "frossl": lambda gather: FroSSLLoss(gather_distributed=gather),
    "lejepa": lambda gather: LeJEPALoss(0.5, num_slices=6, gather_distributed=gather),
    "matrixssl": lambda gather: MatrixSSLLoss(gather_distributed=gather),
    "mec": lambda gather: MECLoss(gather_distributed=gather),
    "mmcr": lambda gather: MMCRLoss(gather_distributed=gather),
    "simdino": lambda gather: SimDINOLoss(gather_distributed=gather),
    "tico": lambda gather: TiCoLoss(OUT_DIM, gather_distributed=gather),
    # of three slices, two for one rank of two, and none for one of four
    "visreg": lambda gather: VISRegLoss(num_slices=3, gather_distributed=gather),
}
OF_ONE_LIST = (FroSSLLoss, EMPSSLLoss)  # their views have no targets


def _mine(gather):
    torch.manual_seed(0)  # one critic on all ranks, as DDP sees to
    loss = MVIBLoss(0.3, gather_distributed=gather, estimator="mine", dim=OUT_DIM // 2)
    return loss.double()


# Two tensors of a shared branch, or 2 + 2 online views against the two targets of another branch
SCENARIOS = [(name, views) for name in LOSSES for views in ("pair", "multi-crop")]
for _name in ("mvib", "mvib mine", "mvib mige"):
    SCENARIOS.remove((_name, "multi-crop"))
# Queues and centres are float32 in all, with rows rounded alike. In bfloat16 the gradient at each
# embedding is rounded once more, relative 2^-9, on either side.
TOLERANCES = {torch.float64: 1e-6, torch.bfloat16: 2**-8}


class Branches(nn.Module):
    """A linear online branch, a fixed target branch and a loss: what DDP wraps."""

    def __init__(self, criterion, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.online = nn.Linear(IN_DIM, OUT_DIM, bias=False, dtype=torch.float64)
        self.target = nn.Linear(IN_DIM, OUT_DIM, bias=False, dtype=torch.float64)
        self.target.requires_grad_(False)
        self.criterion = criterion
        self.dtype = dtype

    def forward(self, images, views):
        online = [self.online(x).to(self.dtype) for x in images]
        if views == "pair":
            return self.criterion(online[0], online[1])
        if isinstance(self.criterion, OF_ONE_LIST):
            return self.criterion(online)
        return self.criterion(online, [self.target(x).to(self.dtype) for x in images[:2]])


def _train(rank, world, name, views, dtype=torch.float64, gather=True):
    """Three steps of one scenario on this rank's share: losses, terms, averaged gradients."""
    options = {"generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
    images = torch.randn(STEPS, 4, TOTAL, IN_DIM, **options)
    images = images[:, :1] + 0.5 * images
    noise = torch.randn(STEPS, 2, TOTAL, OUT_DIM // 2, **options)
    share = slice(rank * TOTAL // world, (rank + 1) * TOTAL // world)

    module = Branches(LOSSES[name](gather), dtype)
    trained = [p for p in module.parameters() if p.requires_grad]
    step_module = DistributedDataParallel(module) if world > 1 else module
    history = {"loss": [], "terms": [], "gradient": []}
    for step in range(STEPS):
        module.zero_grad()
        torch.manual_seed(100 * rank + step)  # slices are the first rank's
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Normal, "rsample", prepared(noise[step][:, share]))
            loss = step_module(images[step][:, share], views)
        loss.backward()
        history["loss"].append(loss.detach())
        history["terms"].append({k: v.clone() for k, v in module.criterion.terms.items()})
        history["gradient"].append([p.grad.clone() for p in trained])
        with torch.no_grad():
            for parameter in trained:
                parameter -= 0.1 * parameter.grad
    return history


# Four ranks on few cores are slow: what two ranks show of the plain pair is mostly left out.
FOUR_RANKS = ("er memory 24", "mveb", "mveb sphere", "mveb auto", "discrete")
CASES = [(2, *scenario, dtype) for scenario in SCENARIOS for dtype in TOLERANCES]
CASES += [
    (4, name, views, torch.float64)
    for name, views in SCENARIOS
    if views == "multi-crop" or "mvib" in name or name in FOUR_RANKS
]


def _train_all(rank, world):
    results = {case: _train(rank, world, *case[1:]) for case in CASES if case[0] == world}
    for name in ("er", "mveb"):
        results["not gathered", name] = _train(rank, world, name, "pair", gather=False)
    return results


@pytest.fixture(scope="module")
def ranks(gloo):
    return {world: gloo.run(world, _train_all) for world in (2, 4)}


def assert_relative(computed, expected, tolerance):
    assert (computed - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize(("world", "name", "views", "dtype"), CASES)
def test_all_processes_equal_one_in_value_terms_and_gradient(ranks, world, name, views, dtype):
    expected = _train(0, 1, name, views, dtype)
    for results in ranks[world]:
        history = results[world, name, views, dtype]
        for step in range(STEPS):
            assert_relative(history["loss"][step], expected["loss"][step], TOLERANCES[dtype])
            for term, value in expected["terms"][step].items():
                assert_relative(history["terms"][step][term], value, TOLERANCES[dtype])
            for ours, theirs in zip(
                history["gradient"][step], expected["gradient"][step], strict=True
            ):
                assert_relative(ours, theirs, TOLERANCES[dtype])


def test_without_gathering_each_rank_sees_its_own_rows_only(ranks):
    # The papers' runs did this. It also shows that the equality above is not trivial.
    expected = _train(0, 1, "er", "pair")["loss"][0]
    losses = [results["not gathered", "er"]["loss"][0] for results in ranks[2]]
    assert all(abs(loss - expected) > 1e-3 for loss in losses)
    assert abs(losses[0] - losses[1]) > 1e-3


def _differentiate_twice(rank, world, name):
    """The gradient of a step, and the same with a graph, or why there is none."""
    z = torch.randn(2, TOTAL, OUT_DIM, generator=torch.Generator().manual_seed(rank)).double()
    gradients = []
    for create_graph in (False, True):
        torch.manual_seed(0)
        leaf = z[0].clone().requires_grad_()
        loss = LOSSES[name](True)(leaf, z[1])
        try:
            (gradient,) = torch.autograd.grad(loss, leaf, create_graph=create_graph)
        except RuntimeError as error:
            return str(error)
        gradients.append(gradient.detach())
    return gradients


@pytest.mark.parametrize("name", ["lejepa", "visreg", "mmcr"])
def test_a_gradient_with_a_graph_forgets_no_rank(gloo, name):
    for result in gloo.run(2, _differentiate_twice, name):
        if name == "lejepa":
            assert "has a first derivative only" in result
        else:
            torch.testing.assert_close(result[1], result[0])


@pytest.mark.parametrize(("world", "name"), [(2, "mveb rows 4"), (4, "mveb rows 2")])
def test_one_process_with_a_devices_rows_a_score_is_the_mean_of_devices_by_themselves(
    ranks, world, name
):
    # MVEB's code estimates the score on the rows of one device.
    expected = _train(0, 1, name, "pair")
    for step in range(STEPS):
        histories = [results["not gathered", "mveb"] for results in ranks[world]]
        losses = torch.stack([history["loss"][step] for history in histories])
        assert_relative(losses.mean(), expected["loss"][step], 1e-6)
        for history in histories:  # averaged by DistributedDataParallel
            assert_relative(history["gradient"][step][0], expected["gradient"][step][0], 1e-6)


@pytest.mark.parametrize(("name", "views"), SCENARIOS)
def test_gathering_on_one_process_changes_nothing(name, views):
    gathered = _train(0, 1, name, views)
    plain = _train(0, 1, name, views, gather=False)
    for step in range(STEPS):
        assert torch.equal(gathered["loss"][step], plain["loss"][step])
        for ours, theirs in zip(gathered["gradient"][step], plain["gradient"][step], strict=True):
            assert torch.equal(ours, theirs)


# Who solves what ------------------------------------------------------------------------------


@pytest.mark.parametrize(("world", "views"), [(2, 2), (2, 3), (3, 2), (4, 2), (8, 2), (8, 8)])
@pytest.mark.parametrize("dim", [2, 7])
def test_every_dimension_of_every_view_is_solved_for_once(world, views, dim):
    shares = shares_of(world, 3, [dim] * views, [slice(0, 3 * world)])
    solved = [
        (part.view, column)
        for share in shares
        for part in share
        for column in range(dim)[part.columns]
    ]
    assert sorted(solved) == list(product(range(views), range(dim)))
    # one system a rank is the least where ranks are more, else as few as can be
    assert max(map(len, shares)) == -(-views // world)


def _count_solves(rank, world, views):
    """Shapes of the systems that this rank factors, and of the right-hand sides it solves for."""
    shapes = {"factored": [], "solved": []}
    factor, solve = torch.linalg.cholesky_ex, _triangle.solve_

    def counted_factor(matrix):
        shapes["factored"].append(tuple(matrix.shape))
        return factor(matrix)

    def counted_solve(factor, right_side):
        shapes["solved"].append(tuple(right_side.shape))
        return solve(factor, right_side)

    loss_fn = MVEBLoss(gather_distributed=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.linalg, "cholesky_ex", counted_factor)
        patch.setattr(_triangle, "solve_", counted_solve)
        z = nn.functional.normalize(torch.randn(views, 3, 12).double(), dim=-1)
        loss_fn(list(z), list(z[:2]))
    return shapes


def test_ranks_share_the_solves(gloo):
    # two ranks, three views: 1 + 2 systems of 2 * 3 rows, each with all dimensions
    first, second = gloo.run(2, _count_solves, 3)
    assert first == {"factored": [(2, 6, 6)], "solved": [(2, 6, 12)]}
    assert second == {"factored": [(6, 6)], "solved": [(6, 12)]}
    # four ranks, two views: one system each, half of its dimensions
    for shapes in gloo.run(4, _count_solves, 2):
        assert shapes == {"factored": [(12, 12)], "solved": [(12, 6)]}


def _scores(rank, world):
    """This rank's scores of two views, of 5 and 3 dimensions, and those of one process."""
    generator = torch.Generator().manual_seed(0)
    whole = [
        nn.functional.normalize(torch.randn(6, dim, generator=generator).double(), dim=-1)
        for dim in (5, 3)
    ]
    own = own_scores([z.chunk(world)[rank] for z in whole], gather_distributed=True)
    return own, [stein_score(z).chunk(world)[rank] for z in whole]


def test_uneven_shares_of_uneven_views_give_each_rank_the_scores_at_its_rows(gloo):
    for own, expected in gloo.run(3, _scores):
        torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)
