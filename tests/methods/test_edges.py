"""What every method does at the edges: a finite number or a sentence, never a silent NaN."""

import re

import pytest
import torch
from pytorch_lightning import seed_everything

from erssl.methods import available_methods, get_method

from .test_every_method import build

SHAPE = (3, 32, 32)


def images(count, seed=0):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


BATCHES = {
    "black images": lambda: [torch.zeros(8, *SHAPE)] * 2,
    "one image eight times": lambda: [images(1).repeat(8, 1, 1, 1)] * 2,
    "views that are the same": lambda: [images(8)] * 2,
    "views opposed": lambda: [images(8), -images(8)],
    "two images": lambda: [images(2), images(2, seed=1)],
    "of size 1e4": lambda: [1e4 * images(8), 1e4 * images(8, seed=1)],
}


def step_of(name, views):
    """Loss of a training step, twice: the second meets queues and centres that have moved."""
    seed_everything(0)
    method = build(name).train()
    count = get_method(name).info.min_views
    for _ in range(2):
        loss = method.multi_view_step(views[:count]).loss
    loss.backward()
    return loss, [p.grad for p in method.parameters() if p.grad is not None]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", available_methods())
def test_a_step_is_finite_at_every_edge(name, precision):
    for case, make in BATCHES.items():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            loss, gradients = step_of(name, make())
        assert loss.isfinite(), case
        assert all(gradient.isfinite().all() for gradient in gradients), case


@pytest.mark.parametrize("name", available_methods())
def test_one_image_a_device_is_a_sentence_or_a_finite_number(name):
    try:
        loss, gradients = step_of(name, [images(1), images(1, seed=1)])
    except ValueError as error:  # torch's own, of a batch norm that sees one view, or ours
        assert re.search("more than 1 value|at least two|N >= 2|N of at least", str(error))
    else:  # both views pass the network together
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", available_methods())
def test_every_method_says_which_term_of_the_bound_it_is(name):
    info = get_method(name).info
    assert info.entropy
    assert info.reconstruction
