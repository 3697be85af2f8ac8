"""Runs that start from weights, and runs that are made longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch.optim import Optimizer


class FrozenBackbone(Callback):
    """Leave the backbone as it is for the first epochs, batch statistics included.

    Its gradients are dropped before each step, so that no optimiser touches it; whether a
    parameter takes a gradient does not change, which distributed training would not bear.
    """

    def __init__(self, epochs: int) -> None:
        """Set for how long.

        Args:
            epochs: Epochs in which the backbone does not change.
        """
        self.epochs = epochs

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep it in eval mode, and put it back into train mode when the time is over."""
        backbone: Any = pl_module.backbone
        frozen = trainer.current_epoch < self.epochs
        if backbone.training == frozen:
            backbone.train(not frozen)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Drop its gradients."""
        if trainer.current_epoch < self.epochs:
            backbone: Any = pl_module.backbone
            for parameter in backbone.parameters():
                parameter.grad = None


class LengthenedSchedule(Callback):
    """Let a run that is made longer go on with the learning rate of its new schedule.

    Whether it is longer, each process sees in the checkpoint, which has the steps of the old one.
    """

    def __init__(self, epochs: int, say: Callable[[str], None]) -> None:
        """Set what to say.

        Args:
            epochs: Epochs that the run has now.
            say: Prints a sentence.
        """
        self.epochs, self.say = epochs, say

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the rates of the first step, which the checkpoint has from the old schedule."""
        before = getattr(pl_module, "scheduled_before", None)
        for config in trainer.lr_scheduler_configs:
            scheduler: Any = config.scheduler
            steps = getattr(scheduler, "max_epochs", None)
            if before is None or steps is None or steps <= before:
                continue
            groups = scheduler.optimizer.param_groups
            old = float(groups[0]["lr"])
            step, bases = scheduler.last_epoch, scheduler.base_lrs
            rates = [b * f(step) for b, f in zip(bases, scheduler.lr_lambdas, strict=True)]
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            scheduler._last_lr = rates
            self.say(
                f"The run goes on from {self.epochs * before / steps:g} to {self.epochs} epochs; "
                f"the cosines of its learning rate and its target's momentum now span all "
                f"{self.epochs}: the rate goes on from {rates[0]:.3g}, where it had come to "
                f"{old:.3g}."
            )
