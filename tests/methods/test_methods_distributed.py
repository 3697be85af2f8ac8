"""Two gloo processes with gather_distributed equal one process on the whole batch.

A step of each method whose loss is over the global batch, three times, so that queues and
moments have a history. Networks are in eval mode: batch statistics are SyncBatchNorm's matter.
"""

import pytest
import torch
import torch.distributed as dist

from erssl.methods import get_method

from ..gloo import WORLD, results_of_ranks, start_rank
from .test_methods import SMALL, TinyBackbone

TOTAL, STEPS = 8, 3
SCENARIOS = {
    "cmc": {},
    "mocov2": {"memory_bank_size": 12},
    "mocov3": {"prediction_hidden_dim": 16},
    "barlowtwins": {},
    "vicreg": {},
    "unigrad": {},
    "self_classifier": {"classes_per_head": [4, 6]},
    "swav": {"num_prototypes": 4, "queue_length": 12, "queue_start_epoch": 0},
    "simclr_er": {"memory_bank_size": [12, 8]},
    "byol_er": {"prediction_hidden_dim": 16},
    "dino_er": {"num_prototypes": 5},
    "swav_er": {"num_prototypes": 5, "temperature": 0.3, "target_temperature": 0.2},
    "deepcluster_er": {"num_prototypes": 3, "num_clusterings": 1, "memory_bank_size": 12},
}


def _train(name, rank, world, gather=True):
    """Loss, and gradient averaged over ranks as by DDP, of three steps on this rank's share."""
    torch.manual_seed(0)
    method = get_method(name)(
        TOTAL, 2, backbone=TinyBackbone(), gather_distributed=gather, **SMALL, **SCENARIOS[name]
    )
    images = torch.randn(STEPS, 2, TOTAL, 3, 8, 8, dtype=torch.float64)
    share = slice(rank * TOTAL // world, (rank + 1) * TOTAL // world)
    method.double().eval()
    method.training = method.criterion.training = True
    history = []
    for step in range(STEPS):
        method.zero_grad()
        loss = method.multi_view_step([view[share] for view in images[step]]).loss
        loss.backward()
        gradients = [p.grad for p in method.parameters() if p.grad is not None]
        total = [loss.detach(), *gradients]
        for value in total if world > 1 else []:
            dist.all_reduce(value)
            value /= world
        history.append([value.clone() for value in total])
    return history


def _worker(rank, folder):
    start_rank(rank, folder)
    results = {name: _train(name, rank, WORLD) for name in SCENARIOS}
    results |= {f"{name} alone": _train(name, rank, WORLD, gather=False) for name in SCENARIOS}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return results_of_ranks(_worker, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_equal_one_in_value_and_gradient(ranks, name):
    expected = _train(name, rank=0, world=1)
    for results in ranks:
        for ours, theirs in zip(results[name], expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    # and the equality is not trivial: devices by themselves give something else
    alone = ranks[0][f"{name} alone"][-1]
    assert any(
        not torch.allclose(a, b, rtol=1e-5, atol=1e-5)
        for a, b in zip(alone, expected[-1], strict=True)
    )
