"""Losses on a GPU that has no values, which any machine can pretend to have.

Whatever would read a value on the host, mix devices, or look at a tensor as if it lay the way it
does on a CPU, fails on one.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from .test_loss_degenerate_inputs import DIM, LOSSES

WAITS = {  # what each reads on the host
    "er_memory": "how many rows the queue holds, once it came to another device",
    "er_best": "the concentration",
    "er_learned": "the concentration",
    "mvib": "lightly's NTXentLoss picks pairs by a mask, whose count it reads",
}


def rows(count):
    return [torch.empty(count, DIM, device="cuda", requires_grad=True) for _ in range(2)]


@pytest.mark.parametrize("count", [12, 300, 1100])
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in WAITS])
def test_a_loss_is_of_the_device_and_is_not_waited_for(name, count):
    with FakeTensorMode():
        loss = LOSSES[name]().to("cuda")(*rows(count))
        assert loss.device.type == "cuda"
        assert loss.shape == ()
        assert loss.requires_grad


@pytest.mark.parametrize("name", WAITS)
def test_a_loss_that_waits_is_known_to_do_so(name):
    """So that it leaves the list above once it does not."""
    with FakeTensorMode(), pytest.raises(RuntimeError, match="aten"):
        LOSSES[name]().to("cuda")(*rows(12))


def test_scores_viewed_as_if_they_lay_by_rows_would_be_seen():
    with FakeTensorMode(), pytest.raises((RuntimeError, ValueError), match="view"):
        torch.linalg.solve(*torch.empty(2, 3, 5, 5, device="cuda")).view(15, 5)
