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
    "images of size 1e4": lambda: [1e4 * images(8), 1e4 * images(8, seed=1)],
    "two images": lambda: [images(2), images(2, seed=1)],
    "views that are the same": lambda: [images(8)] * 2,
    "views opposed": lambda: [images(8), -images(8)],
    "one image eight times": lambda: [images(1).repeat(8, 1, 1, 1)] * 2,
    "black images": lambda: [torch.zeros(8, *SHAPE)] * 2,
}


def assert_step_is_finite(method, views, case):
    count = type(method).info.min_views
    method.zero_grad()
    loss = method.multi_view_step(views[:count]).loss
    loss.backward()
    assert loss.isfinite(), case
    for parameter in method.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), case


@pytest.mark.parametrize("name", available_methods())
def test_a_step_is_finite_at_every_edge(name):
    seed_everything(0)
    method = build(name).train()  # one for all: queues and centres keep what came before
    for case, make in BATCHES.items():
        assert_step_is_finite(method, make(), case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for case in ("views opposed", "black images"):
            assert_step_is_finite(method, BATCHES[case](), f"{case}, bfloat16")


@pytest.mark.parametrize("name", available_methods())
def test_one_image_a_device_is_a_sentence_or_a_finite_number(name):
    seed_everything(0)
    method = build(name).train()
    try:
        assert_step_is_finite(method, [images(1), images(1, seed=1)], "one image")
    except ValueError as error:  # torch's own, of a batch norm that sees one view, or ours
        assert re.search("more than 1 value|at least two|N >= 2|N of at least", str(error))


@pytest.mark.parametrize("name", available_methods())
def test_every_method_says_which_term_of_the_bound_it_is(name):
    info = get_method(name).info
    assert info.entropy
    assert info.reconstruction
