"""One training of torchvision's detectors as a LightningModule, and what goes on around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from erssl.downstream.detection.progress import ProgressLines
from erssl.downstream.detection.recipes import Recipe, Schedule, learning_rate
from erssl.downstream.detection.torchvision_model import parameter_groups
from erssl.errors import RunError
from erssl.run.directory import LAST_CHECKPOINT
from erssl.run.signals import SignalWatch

_SHORT = {
    "loss_classifier": "loss_class",
    "loss_box_reg": "loss_box",
    "loss_mask": "loss_mask",
    "loss_objectness": "loss_rpn_class",
    "loss_rpn_box_reg": "loss_rpn_box",
}
_RANK_SEED = 1_000_003  # apart from every number of iterations


class DetectorTraining(LightningModule):
    """SGD on the sum of the detector's losses, at the schedule's learning rate.

    What is drawn by chance in an iteration (the samples of proposals) depends on the seed and the
    iteration alone, so that a training that is resumed goes on as if it had not been stopped.

    Attributes:
        detector: torchvision's Mask R-CNN or Faster R-CNN.
        losses: Of the last iteration, by name.
    """

    def __init__(
        self, detector: FasterRCNN, recipe: Recipe, schedule: Schedule, seed: int, about: str
    ) -> None:
        """Take the detector and how it is trained.

        Args:
            detector: In train mode.
            recipe: Momentum and weight decay.
            schedule: Learning rates.
            seed: Of the samples.
            about: What the head was made for, kept in the checkpoint.
        """
        super().__init__()
        self.detector = detector
        self.losses: dict[str, float] = {}
        self._recipe, self._schedule, self._seed, self._about = recipe, schedule, seed, about

    def training_step(self, batch: tuple[list[Tensor], list[dict[str, Tensor]]]) -> Tensor:
        """Sum of the losses of a batch.

        Raises:
            RunError: If it is not finite.
        """
        torch.manual_seed((self._seed * _RANK_SEED + self.global_step) * 1024 + self.global_rank)
        parts: dict[str, Tensor] = self.detector(*batch)
        loss = torch.stack(list(parts.values())).sum()
        self.losses = {"loss": loss.item()}
        self.losses |= {_SHORT[name]: value.item() for name, value in parts.items()}
        if not math.isfinite(self.losses["loss"]):
            raise RunError(
                f"The loss of iteration {self.global_step} is not finite; start again with a lower "
                "learning_rate."
            )
        rate = learning_rate(self._schedule, self.global_step)
        self.log_dict({f"train_{k}": v for k, v in self.losses.items()}, batch_size=len(batch[0]))
        self.log("lr", rate, batch_size=len(batch[0]))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD with momentum."""
        groups = parameter_groups(self.detector, self._recipe.weight_decay)
        return torch.optim.SGD(groups, self._schedule.base_lr, self._recipe.momentum)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of the iteration."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = learning_rate(self._schedule, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the head was made for."""
        checkpoint["about"] = self._about

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another head."""
        require_same_head(checkpoint, self._about)


class AroundIterations(Callback):
    """After an iteration: a line, a checkpoint, an evaluation, each when it is due."""

    def __init__(
        self,
        folder: Path,
        checkpoint_period: int,
        eval_period: int,
        evaluate: Callable[[], Mapping[str, float]],
        lines: ProgressLines,
        schedule: Schedule,
        signals: SignalWatch | None = None,
    ) -> None:
        """Take what is to be done.

        Args:
            folder: The run directory.
            checkpoint_period: Iterations from one checkpoint to the next.
            eval_period: Iterations from one evaluation to the next; 0 for none.
            evaluate: Gives metrics, and leaves the detector in train mode.
            lines: Says where the training is.
            schedule: Its length and learning rates.
            signals: Tells when the training shall stop.
        """
        self._signals = signals
        self._stop = False
        self._held: dict[str, Any] | None = None
        self._file = folder / LAST_CHECKPOINT
        self._checkpoint_period, self._eval_period = checkpoint_period, eval_period
        self._evaluate, self._lines, self._schedule = evaluate, lines, schedule

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch for signals, in the place of what Lightning does at them."""
        if self._signals is not None:
            self._signals.training_begins()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last one; from now on a signal ends the run at once."""
        self._write(trainer)
        if self._signals is not None:
            self._signals.training_ends()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Do what is due."""
        assert isinstance(pl_module, DetectorTraining)
        done, end = trainer.global_step, self._schedule.iterations
        self._lines.show(done, pl_module.losses, learning_rate(self._schedule, done - 1))
        self._stop = self._signals is not None and self._signals.heard(trainer)
        if self._stop or done % self._checkpoint_period == 0 or done == end:
            # Lightning logs this iteration's row next; Trainer.save_checkpoint would come before
            self._held = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if self._stop:
            return
        if self._eval_period and done % self._eval_period == 0 and done < end:
            metrics = dict(self._evaluate())
            for logger in trainer.loggers:
                logger.log_metrics({f"val_{k}": v for k, v in metrics.items()}, step=done - 1)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write what was taken after the iteration before."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if self._held is None:
            return
        held, self._held = self._held, None
        for logger in trainer.loggers:
            logger.save()  # a checkpoint stands for no rows that the curves lack
        trainer.strategy.save_checkpoint(held, self._file)
        trainer.strategy.barrier("checkpoint")
        if self._stop and self._signals is not None:
            self._signals.stop(trainer.global_step, trainer.is_global_zero)


def require_same_head(checkpoint: Mapping[str, Any], about: str) -> None:
    """Make sure that a checkpoint is of a detector for the same classes.

    Raises:
        RunError: If it is not.
    """
    saved_about = checkpoint.get("about", "no detector of this command")
    if saved_about != about:
        raise RunError(
            f"The checkpoint in run_dir is of {saved_about}, but this run is of {about}; give the "
            "data it was trained on, or start again with overwrite=true."
        )


def about_head(class_names: tuple[str, ...], backbone: str, masks: bool = True) -> str:
    """What a detector's head was made for, in words that tell two apart."""
    shown = ", ".join(class_names[:3]) + (", ..." if len(class_names) > 3 else "")
    kind = "Mask R-CNN" if masks else "Faster R-CNN"
    return f"{kind} on {backbone} for {len(class_names)} classes ({shown})"
