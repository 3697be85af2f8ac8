"""The linear rule, and learning rates beside torch's own schedulers."""

import pytest
import torch
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, MultiStepLR

from erssl.downstream.detection.recipes import RECIPES, learning_rate, scaled
from erssl.errors import ConfigError

FPN = RECIPES["mask_rcnn_fpn_1x"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_at_its_own_batch_is_as_published(name):
    recipe = RECIPES[name]
    schedule = scaled(recipe, recipe.batch_size)
    for key in ("iterations", "steps", "base_lr", "warmup_iterations", "warmup_factor"):
        assert getattr(schedule, key) == getattr(recipe, key)
    assert schedule.sentence.endswith("(as published).")


@pytest.mark.parametrize(("batch", "factor"), [(2, 8), (4, 4), (8, 2), (32, 0.5)])
def test_linear_rule(batch, factor):
    schedule = scaled(FPN, batch)
    assert schedule.base_lr == pytest.approx(0.02 / factor)
    assert schedule.iterations == 90_000 * factor
    assert schedule.steps == (60_000 * factor, 80_000 * factor)
    assert schedule.warmup_iterations == 1000 * factor
    assert f"from batch 16 to {batch}" in schedule.sentence


def test_steps_and_warm_up_keep_their_share_of_a_length_that_is_given():
    schedule = scaled(FPN, 2, iterations=900)
    assert (schedule.iterations, schedule.steps, schedule.warmup_iterations) == (
        900,
        (600, 800),
        10,
    )
    assert schedule.base_lr == 0.0025
    assert "length that was given" in schedule.sentence
    assert scaled(FPN, 2, lr=0.5).base_lr == 0.5


@pytest.mark.parametrize("batch", [2, 16])
def test_learning_rate_equals_torchs_schedulers(batch):
    schedule = scaled(FPN, batch, iterations=900)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], schedule.base_lr)
    warm_up = LinearLR(optimizer, schedule.warmup_factor, 1.0, schedule.warmup_iterations)
    decay = MultiStepLR(optimizer, list(schedule.steps), 0.1)
    both = ChainedScheduler([warm_up, decay])
    for iteration in range(900):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(schedule, iteration) == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        both.step()


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"batch_size": 2, "iterations": 0}])
def test_nothing_to_train_is_refused(bad):
    with pytest.raises(ConfigError, match="at least 1"):
        scaled(FPN, **bad)
    with pytest.raises(ConfigError, match="learning_rate=0"):
        scaled(FPN, 2, lr=0.0)
