"""The score of MVEB in groups of rows: which rows, what each group gives, what is sent."""

import numpy as np
import pytest
import torch

from erssl.entropy import stein_score
from erssl.loss import MVEBLoss
from erssl.loss._score import own_scores, row_groups, shares_of
from erssl.methods import MVEB

from ..methods.test_methods import SMALL, TinyBackbone
from .loss_reference import check_loss, mveb_loss, mveb_scores, views


@pytest.mark.parametrize("count", [2, 5, 127, 128, 129, 200, 256, 257, 4096, 4100])
@pytest.mark.parametrize("score_rows", [2, 3, 128, 5000])
def test_groups_are_the_rows_in_order_as_numpy_splits_them_never_one_row(count, score_rows):
    groups = [np.arange(count)[group] for group in row_groups(count, score_rows)]
    wanted = -(-count // score_rows)
    expected = np.array_split(np.arange(count), wanted)
    if min(map(len, expected)) < 2:  # only where groups of two do not go into an odd number
        assert (score_rows, count % 2) == (2, 1)
        expected = np.array_split(np.arange(count), wanted - 1)
    assert [list(group) for group in groups] == [list(group) for group in expected]
    assert min(map(len, groups)) >= 2


@pytest.mark.parametrize("score_rows", [None, 2, 128])
def test_one_row_is_one_group(score_rows):
    assert row_groups(1, score_rows) == [slice(0, 1)]
    z = torch.nn.functional.normalize(torch.randn(2, 1, 8, dtype=torch.float64), dim=-1)
    expected = MVEBLoss()(*z)
    torch.testing.assert_close(MVEBLoss(score_rows=score_rows)(*z), expected, rtol=0, atol=0)


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize(("count", "score_rows"), [(8, 4), (7, 3), (9, 4), (5, 2)])
def test_each_group_has_a_kernel_and_a_bandwidth_of_its_own(number, count, score_rows):
    online, target = views(number, count, 4), views(2, count, 4, seed=1)
    bounds = [group.stop for group in row_groups(count, score_rows)][:-1]
    parts = [np.split(z.numpy(), bounds) for z in online]
    scores = [np.concatenate(mveb_scores(part, eta=0.05)) for part in parts]
    check_loss(
        MVEBLoss(beta=0.3, eta=0.05, score_rows=score_rows),
        online,
        target,
        lambda o, t: mveb_loss(o, t, scores, beta=0.3),
        gradient_atol=1e-7,
    )


def unit_rows(count, dim, seed=0, around=0.0):
    z = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + around
    return torch.nn.functional.normalize(z, dim=1)


@pytest.mark.parametrize("number", [1, 2])
def test_scores_that_lie_column_by_column_are_those_that_lie_row_by_row(number):
    """As CUDA's solver gives them; on a CPU torch 2.14 gives rows."""
    z = [unit_rows(12, 5, seed) for seed in range(number)]

    def by_columns(rows):
        return stein_score(rows).mT.contiguous().mT

    for actual, expected in zip(
        own_scores(z, False, 4, by_columns), own_scores(z, False, 4), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("count", [640, 650, 4100])
@pytest.mark.parametrize("geometry", ["euclidean", "sphere"])
def test_groups_of_many_rows_in_batches_have_the_scores_of_each(count, geometry):
    z = unit_rows(count, 160)
    z[:64] = unit_rows(64, 160, 1, around=50.0)  # near collapse: solved in float64
    (computed,) = own_scores([z], False, 64, lambda z: stein_score(z, geometry=geometry))
    for group in row_groups(count, 64):
        expected = stein_score(z[group].double(), geometry=geometry)
        assert (computed[group] - expected).norm() < 5e-4 * expected.norm()


def test_only_the_groups_that_need_it_are_solved_in_float64(monkeypatch):
    factored = []
    original = torch.linalg.cholesky_ex

    def counted(matrix):
        factored.append((matrix.dtype, len(matrix)))
        return original(matrix)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", counted)
    z = torch.stack([unit_rows(64, 160, seed, around) for seed, around in enumerate((0, 50, 0))])
    stein_score(z)
    assert factored == [(torch.float32, 3), (torch.float64, 1)]


def test_the_rows_change_the_loss_and_their_order_the_groups():
    z = unit_rows(64, 32), unit_rows(64, 32, 1)
    shuffled = [view[torch.arange(64).roll(3)] for view in z]
    assert abs(MVEBLoss(0.1)(*z) - MVEBLoss(0.1, score_rows=16)(*z)) > 1e-3
    torch.testing.assert_close(MVEBLoss(0.1)(*z), MVEBLoss(0.1)(*shuffled))
    split = MVEBLoss(0.1, score_rows=16)
    assert abs(split(*z) - split(*shuffled)) > 1e-4


def test_the_method_takes_128_rows_and_the_loss_all_of_them():
    method = MVEB(8, 2, backbone=TinyBackbone(), **SMALL)
    assert method.criterion.score_rows == 128
    method = MVEB(8, 2, backbone=TinyBackbone(), score_rows=None, **SMALL)
    assert method.criterion.score_rows is None
    assert MVEBLoss().score_rows is None


@pytest.mark.parametrize("score_rows", [1, 0, -128, 128.0, 2.5, float("nan"), True])
def test_fewer_than_two_rows_are_refused(score_rows):
    with pytest.raises(ValueError, match=f"at least 2 rows but score_rows is {score_rows};"):
        MVEBLoss(score_rows=score_rows)


# On ranks; the values are compared in test_loss_distributed -----------------------------------


@pytest.mark.parametrize(("world", "n", "score_rows"), [(4, 128, 100), (3, 5, 2), (4, 6, 20)])
def test_every_row_and_dimension_is_solved_for_once_and_ranks_share_alike(world, n, score_rows):
    groups, dims = row_groups(world * n, score_rows), [7, 7, 3]
    shares = shares_of(world, n, dims, groups)
    solved = np.zeros((len(dims), world * n, max(dims)), dtype=int)
    for part in (part for share in shares for part in share):
        solved[part.view, part.rows, part.columns] += 1
        held = [range(n)[part.held_by(rank, n)] for rank in range(world)]
        rows = [rank * n + row for rank, own in enumerate(held) for row in own]
        assert rows == list(range(world * n)[part.rows])
    assert all((solved[view, :, :dim] == 1).all() for view, dim in enumerate(dims))
    if len(groups) >= world:
        counts = [len(share) / len(dims) for share in shares]
        assert max(counts) <= -(-len(groups) // world) + 1


def _sent(rank, world, score_rows):
    """How often this rank sends rows or scores, in a loss of 6 rows on each rank."""
    calls = []
    original = torch.distributed.all_to_all_single

    def counted(*arguments):
        calls.append(len(calls))
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_to_all_single", counted)
        own_scores([unit_rows(6, 8, rank).double()], True, score_rows)
    return len(calls)


def test_groups_that_lie_within_a_rank_are_not_sent(gloo):
    assert gloo.run(2, _sent, 6) == [0, 0]
    assert gloo.run(2, _sent, 3) == [0, 0]
    assert gloo.run(2, _sent, 5) == [2, 2]  # of 4 rows each: the second lies in both
    assert gloo.run(2, _sent, None) == [2, 2]
