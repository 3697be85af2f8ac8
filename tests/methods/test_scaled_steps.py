"""A step that float16's scaler leaves out moves neither a target nor what a loss keeps."""

import pytest
import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.plugins import MixedPrecision
from torch.utils.data import DataLoader

from erssl.methods import OptimizerOptions, get_method

from .test_methods import TinyBackbone
from .test_methods_distributed import scenario

SGD = OptimizerOptions("sgd", base_lr=0.5, warmup_epochs=0)


def followed(name, steps, scale):
    """What follows the online branch, before and after so many steps."""
    seed_everything(0)
    method = get_method(name)(8, 2, backbone=TinyBackbone(), optimizer=SGD, **scenario(name))

    def state():
        content = method.state_dict().items()
        own = ("target_", "criterion.", "memory_bank")
        passed = ("running_mean", "running_var", "num_batches_tracked")  # moved by forward passes
        return {k: v.clone() for k, v in content if k.startswith(own) and not k.endswith(passed)}

    before = state()
    # the first step overflows, whatever the loss; the next ones are of scale 1
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, backoff_factor=min(1 / scale, 0.5))
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    labels = torch.zeros(8, dtype=torch.long)
    batches = [(list(torch.randn(2, 8, 3, 8, 8)), labels, [""] * 8) for _ in range(steps)]
    trainer.fit(method, DataLoader(batches, batch_size=None))
    assert scaler.get_scale() == 1
    return before, state()


def moved(before, after):
    return {
        key
        for key, value in after.items()
        if key not in before or not torch.equal(value.nan_to_num(), before[key].nan_to_num())
    }


@pytest.mark.parametrize("name", ["byol", "dino", "mocov2", "simclr_er", "unigrad"])
def test_nothing_follows_a_step_that_was_left_out(name):
    assert moved(*followed(name, 1, 1e30)) == set()
    assert moved(*followed(name, 3, 1e30))
    assert moved(*followed(name, 2, 1.0))
