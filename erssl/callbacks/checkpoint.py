"""The checkpoints of a run: after every epoch, every n steps, and when it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, Checkpoint

from erssl.callbacks.csv_logger import ResumableCSVLogger
from erssl.callbacks.epoch_means import Sums, add_sums, sums_so_far
from erssl.data.draws import draw_on_from
from erssl.run.signals import SignalWatch

_STREAM = 1  # keeps what steps draw apart from what images draw


class RunCheckpoint(Checkpoint):
    """Keep the state such that a run goes on to the bit.

    The state is taken at the end of a step or an epoch and written when Lightning has logged that
    step or epoch, before the next one: a file never stands for rows that ``metrics.csv`` lacks.
    Within an epoch it is not taken where gradients are being accumulated or a validation follows,
    but after the next step without.

    Attributes:
        metrics: The latest value of every metric, for a run that is resumed after its last epoch.
    """

    def __init__(
        self, path: Path, every_n_steps: int | None = None, signals: SignalWatch | None = None
    ) -> None:
        """Write to ``path``.

        Args:
            path: Of ``last.ckpt``.
            every_n_steps: Optimiser steps between checkpoints inside an epoch; ``None`` for none.
            signals: Tells when the run shall stop.
        """
        self.path = path
        self.every_n_steps = every_n_steps
        self.signals = signals
        self.metrics: dict[str, float] = {}
        self._held: dict[str, Any] | None = None
        self._stop = self._due = False
        self._last_step = -1
        self._sums: list[Sums] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The latest metrics."""
        return {"metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.metrics = dict(state_dict["metrics"])

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the sums of an epoch that is half done."""
        epochs: Any = trainer.fit_loop.epoch_progress.current
        if epochs.started > epochs.processed:
            checkpoint["epoch_sums"] = sums_so_far(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep those sums until there is something to add them to."""
        self._sums = checkpoint.get("epoch_sums")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch for signals, in the place of what Lightning does at them."""
        self._last_step = trainer.global_step
        if self.signals is not None:
            self.signals.training_begins()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the state where it is due."""
        if self._sums is not None:
            add_sums(trainer, self._sums)
            self._sums = None
        step = trainer.global_step
        if self.every_n_steps and step % self.every_n_steps == 0 and step != self._last_step:
            self._due = True
        if self.signals is not None and self.signals.heard(trainer):
            self._stop = self._due = True
        if self._due and _between_steps(trainer, batch_idx):
            self._take(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the state after the epoch, when all other callbacks are done."""
        self._take(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write what was taken after the step before."""
        self._write(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was taken after the epoch before."""
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was taken after the last epoch."""
        self._write(trainer)

    def _take(self, trainer: Trainer) -> None:
        latest = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.metrics |= latest
        self._due, self._last_step = False, trainer.global_step
        # Trainer.save_checkpoint would write it at once
        self._held = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)

    def _write(self, trainer: Trainer) -> None:
        if self._held is None:
            return
        held, self._held = self._held, None
        for logger in trainer.loggers:
            if isinstance(logger, ResumableCSVLogger):
                logger.flush()
        trainer.strategy.save_checkpoint(held, self.path)
        trainer.strategy.barrier("checkpoint")
        if self._stop and self.signals is not None:
            self.signals.stop(trainer.global_step, trainer.is_global_zero)


def _between_steps(trainer: Trainer, batch_idx: int) -> bool:
    """Whether nothing but the next step comes after this batch."""
    done = batch_idx + 1
    if trainer.is_last_batch or done >= trainer.num_training_batches:
        return False
    every = trainer.val_check_batch
    if trainer.enable_validation and isinstance(every, int) and every:
        whole_run = trainer.check_val_every_n_epoch is None
        batches = trainer.fit_loop.total_batch_idx + 1 if whole_run else done
        if batches % every == 0:
            return False
    return done % trainer.accumulate_grad_batches == 0


class SeededSteps(Callback):
    """Let what a step draws, such as masks and dropout, follow from seed, epoch, batch and process.

    A resumed run then draws what it would have drawn, whatever else has drawn in between.
    """

    def __init__(self, seed: int) -> None:
        """Take the run's seed."""
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the global generators."""
        place = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        draw_on_from(*place, _STREAM)
