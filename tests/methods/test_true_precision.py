"""Trainings that are of one precision throughout: losses and what moves slowly are of float32."""

import pytest
import torch
from pytorch_lightning import Trainer, seed_everything
from torch.utils.data import DataLoader

from erssl.loss.state import states_of
from erssl.methods import OptimizerOptions, available_methods, get_method
from erssl.methods.target import make_target, update_target

from .test_every_method import build
from .test_methods import SMALL, TinyBackbone
from .test_methods_distributed import MASKED, scenario

SGD = OptimizerOptions("sgd", base_lr=0.5, warmup_epochs=0)
FEW = ("byol", "dino", "mocov2", "mveb", "unigrad")
CASES = [(name, "bf16-true") for name in available_methods()]
CASES += [(name, precision) for name in FEW for precision in ("16-true", "64-true")]


def batch(side, n=8):
    views = list(torch.randn(2, n, 3, side, side))
    return views, torch.zeros(n, dtype=torch.long), [""] * n


def train(name, precision):
    seed_everything(0)
    if name in MASKED:
        method, side = build(name, optimizer=SGD), 32
    else:
        options = {**scenario(name), "optimizer": SGD}
        method, side = get_method(name)(8, 2, backbone=TinyBackbone(), **options), 8
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    batches = DataLoader([batch(side) for _ in range(3)], batch_size=None)
    images, labels, names = batch(side)
    trainer.fit(method, batches, DataLoader([(images[0], labels, names)], batch_size=None))
    return method, trainer


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_every_method_trains_and_keeps_what_is_slow_in_float32(name, precision):
    method, trainer = train(name, precision)
    assert trainer.global_step == 3
    assert trainer.callback_metrics["train_loss"].isfinite()
    own = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
    assert (
        method.backbone.state_dict()[next(iter(method.backbone.state_dict()))].dtype
        == (own[precision])
    )
    slow = [*method.slow_tensors()]
    slow += [value for state in states_of(method) for _, value in state.named_state()]
    wide = torch.float64 if precision == "64-true" else torch.float32
    # moments of CorInfoMax are of float64 always
    assert {value.dtype for value in slow if value.is_floating_point()} <= {wide, torch.float64}
    assert bool(slow) or not (method.has_target or states_of(method))


def test_a_target_in_float32_arrives_where_bfloat16_stands_still():
    online = torch.nn.Linear(4, 4).to(torch.bfloat16)
    with torch.no_grad():
        online.weight.fill_(2.0)
    for dtype, end in ((torch.float32, 2 - 0.99**1000), (torch.bfloat16, 1.0)):
        target = make_target(online).to(dtype)
        target.weight.fill_(1.0)
        for _ in range(1000):
            update_target(online, target, 0.999 if dtype == torch.bfloat16 else 0.99)
        torch.testing.assert_close(target.weight, torch.full((4, 4), end, dtype=dtype))


def test_a_target_of_a_bfloat16_training_moves_as_the_slow_mean_of_its_weights():
    seed_everything(0)
    method = get_method("byol")(8, 2, backbone=TinyBackbone(), optimizer=SGD, **SMALL)
    method = method.to(torch.bfloat16)
    target, online = method.target_backbone.conv.weight, method.backbone.conv.weight
    expected = target.detach().double().clone()
    for _ in range(20):
        with torch.no_grad():
            online += 0.1 * torch.randn(online.shape)
        update_target(method.backbone, method.target_backbone, 0.996)
        expected = 0.996 * expected + 0.004 * online.detach().double()
    torch.testing.assert_close(target.detach().double(), expected, rtol=1e-5, atol=1e-6)
