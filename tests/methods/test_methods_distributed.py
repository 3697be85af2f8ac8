"""Two and four gloo processes equal one process on the whole batch, for every method.

Three steps under DistributedDataParallel, so that queues, clusters and moments have a history.
Networks are in eval mode: batch statistics are SyncBatchNorm's matter.
"""

import pytest
import torch
from lightly.loss import BarlowTwinsLoss, NTXentLoss, VICRegLoss
from lightly.loss.swav_loss import sinkhorn
from torch.distributions import Normal
from torch.nn.parallel import DistributedDataParallel

from erssl.methods import available_methods, get_method
from erssl.recipes import read_recipe

from ..gloo import prepared
from .test_methods import SMALL, TinyBackbone

TOTAL, STEPS = 8, 3
TOLERANCE = 1e-6
SCENARIOS = {  # what is of interest here beside small options
    "byol": {"prediction_hidden_dim": 16},
    "byol_er": {"prediction_hidden_dim": 16, "memory_bank_size": [13, 8]},
    "deepcluster_er": {"num_prototypes": 3, "num_clusterings": 1, "memory_bank_size": 12},
    "deepclusterv2": {"num_prototypes": 3, "num_clusterings": 3, "memory_bank_size": 13},
    "dino": {"num_prototypes": 5},
    "dino_er": {"num_prototypes": 5},
    "entrec": {"memory_bank_size": [64, 8]},
    "infomin": {"memory_bank_size": 64},
    "mocov2": {"memory_bank_size": 13},
    "mocov3": {"prediction_hidden_dim": 16},
    "mveb_stable": {"score_rows": 3},
    "self_classifier": {"classes_per_head": [4, 6]},
    "simclr_er": {"memory_bank_size": [12, 8]},
    "simsiam": {"prediction_hidden_dim": 16},
    "swav": {"num_prototypes": 4, "queue_length": 13, "queue_start_epoch": 0},
    "swav_er": {"num_prototypes": 5, "temperature": 0.3, "target_temperature": 0.2},
    "corinfomax": {"alpha": 5.0},
    "dhel": {"memory_bank_size": [12, 8]},
    "lejepa": {"num_slices": 6},
    "matrixssl": {"prediction_hidden_dim": 16},
    "mec": {"prediction_hidden_dim": 16},
    "nnclr": {"prediction_hidden_dim": 16, "memory_bank_size": 13},
    "visreg": {"num_slices": 3},
}
# Nothing of an image's loss depends on another image, so that there is nothing to gather.
SEPARATE = {"byol", "dino", "simsiam", "deepclusterv2"}
MASKED = {"mae", "simmim"}  # likewise, and each rank draws its own masks


COMPARED = sorted({*available_methods()} - MASKED)


def scenario(name):
    """Options of a method that is compared."""
    return {**read_recipe(name).small_options, **SMALL, **SCENARIOS.get(name, {})}


def _train(rank, world, name):
    """Loss, and gradient averaged over ranks by DDP, of three steps on this rank's share.

    Where there is no group of processes, the share is all that the loss sees.
    """
    torch.manual_seed(0)
    model = get_method(name)
    method = model(TOTAL, 2, backbone=TinyBackbone(), **scenario(name))
    sizes = (8, 8, 6, 6) if model.info.multi_crop else (8, 8)
    draws = {"generator": torch.Generator().manual_seed(1), "dtype": torch.float64}
    images = [[torch.randn(TOTAL, 3, s, s, **draws) for s in sizes] for _ in range(STEPS)]
    noise = torch.randn(STEPS, 2, TOTAL, SMALL["projection_dim"], **draws)
    share = slice(rank * TOTAL // world, (rank + 1) * TOTAL // world)
    method.double().eval()
    method.training = method.criterion.training = True
    forward = method.forward

    def step_loss(views):  # as Lightning lets DDP call the training step
        method.forward = forward
        return method.multi_view_step(views).loss

    together = torch.distributed.is_initialized()
    ddp = DistributedDataParallel(method, find_unused_parameters=True) if together else method
    history = []
    for step in range(STEPS):
        method.zero_grad()
        method.forward = step_loss
        torch.manual_seed(100 * rank + step)  # slices are the first rank's
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Normal, "rsample", prepared(noise[step][:, share]))
            loss = ddp([view[share] for view in images[step]])
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
        history.append((loss.detach(), gradients))
    return history


def _train_all(rank, world):
    return {name: _train(rank, world, name) for name in COMPARED}


@pytest.fixture(scope="module")
def ranks(gloo):
    return {world: gloo.run(world, _train_all) for world in (2, 4)}


def difference(histories, expected):
    """Largest relative difference, over steps, of the mean loss and of any gradient."""
    differences = []
    for step, (loss, gradients) in enumerate(expected):
        losses = torch.stack([history[step][0] for history in histories])
        differences.append(relative(losses.mean(), loss))
        for history in histories:
            assert history[step][1].keys() == gradients.keys()
            differences += [relative(history[step][1][n], g) for n, g in gradients.items()]
    return max(differences)


def relative(computed, expected):
    # Loss and gradient are 0 where a queue is empty, and at a bias that the loss does not see.
    return float((computed - expected).norm() / expected.norm().clamp_min(1e-6))


@pytest.mark.parametrize("name", COMPARED)
def test_all_processes_equal_one_in_value_and_gradient(ranks, name):
    expected = _train(0, 1, name)
    for world in (2, 4):
        assert difference([results[name] for results in ranks[world]], expected) < TOLERANCE
    if name not in SEPARATE:  # the equality is not trivial: halves of the batch alone differ
        halves = zip(_train(0, 2, name), _train(1, 2, name), strict=True)
        averaged = [
            ((loss0 + loss1) / 2, {n: (g + gradients1[n]) / 2 for n, g in gradients0.items()})
            for (loss0, gradients0), (loss1, gradients1) in halves
        ]
        assert difference([averaged], expected) > 1e-4


def _relative_error(rank, world, make_loss):
    """Of the gradient at shares of a batch, averaged as by DDP, against one process."""
    draws = {"generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
    views = torch.randn(2, TOTAL, 5, **draws)
    views = views[:1] + 0.5 * views
    weight = torch.randn(5, 4, **draws).requires_grad_()
    share = slice(rank * TOTAL // world, (rank + 1) * TOTAL // world)
    (whole,) = torch.autograd.grad(make_loss(False)(views[0] @ weight, views[1] @ weight), weight)
    own = make_loss(True)(*(view[share] @ weight for view in views))
    (averaged,) = torch.autograd.grad(own, weight)
    torch.distributed.all_reduce(averaged)
    return float((averaged / world - whole).norm() / whole.norm())


def _barlow_twins(gather):
    return BarlowTwinsLoss(gather_distributed=gather)


def _nt_xent(gather):
    return NTXentLoss(gather_distributed=gather)


def _vicreg(gather):
    return VICRegLoss(gather_distributed=gather)


def test_lightlys_gathered_barlow_twins_is_not_that_of_the_whole_batch(gloo):
    # It standardises the rows of each device by themselves. BarlowTwins therefore gathers rows;
    # when this fails, lightly was repaired and may gather by itself.
    for world in (2, 4):
        assert min(gloo.run(world, _relative_error, _barlow_twins)) > 0.1


@pytest.mark.parametrize("loss", [_nt_xent, _vicreg])
def test_other_gathered_losses_of_lightlys_are_exact(gloo, loss):
    assert max(gloo.run(2, _relative_error, loss)) < TOLERANCE


def _sinkhorn_error(rank, world, rows):
    """Of the assignments of this rank's rows, given the numbers of rows of all ranks."""
    outputs = torch.randn(sum(rows), 3, generator=torch.Generator().manual_seed(0)).double()
    whole, own = sinkhorn(outputs).split(rows)[rank], outputs.split(rows)[rank]
    return float((sinkhorn(own, gather_distributed=True) - whole).abs().max())


def test_lightlys_sinkhorn_over_devices_needs_as_many_rows_on_each(gloo):
    # Why SwAV gathers where the queue is no multiple of the devices.
    assert max(gloo.run(2, _sinkhorn_error, (4, 4))) < TOLERANCE
    assert min(gloo.run(2, _sinkhorn_error, (5, 3))) > 1e-3


def _own_queue(rank, world):
    """The queue of each rank, after two steps in which it does not gather."""
    torch.manual_seed(0)
    method = get_method("simclr_er")(
        4, 2, backbone=TinyBackbone(), memory_bank_size=[12, 8], gather_distributed=False, **SMALL
    )
    ddp = DistributedDataParallel(method, find_unused_parameters=True)
    forward = method.forward

    def step_loss(views):
        method.forward = forward
        return method.multi_view_step(views).loss

    torch.manual_seed(rank)
    for _ in range(2):
        method.forward = step_loss
        ddp(list(torch.randn(2, 4, 3, 8, 8))).backward()
    return method.criterion.memory_bank.rows().clone()


def test_ranks_that_do_not_gather_keep_a_queue_of_their_own(gloo):
    # DDP would send the first rank's before every step, and with it every queue's bytes
    first, second = gloo.run(2, _own_queue)
    assert len(first) == 12
    assert torch.cdist(first, second).min() > 1e-3
