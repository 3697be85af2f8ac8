"""Live progress of a run: epoch, step, loss, nats below uniform, alignment, images/s, time left."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from erssl.callbacks.online_knn import OnlineKNN
from erssl.run.console import Terminal

_METRICS = {
    "train_loss": "loss",
    "train_nats_below_uniform": "nats below uniform",
    "train_alignment": "alignment",
}


class _TwoLines(Progress):
    """Progress above, metrics below, so that both fit into eighty columns."""

    status = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.status, overflow="ellipsis", no_wrap=True)


class LiveProgress(ProgressBar):
    """Two live lines on a terminal, one line an epoch elsewhere (a file, a batch system).

    On a GPU metrics are read every ``trainer.log_every_n_steps`` steps, where logging waits for it
    anyway.
    """

    def __init__(self, console: Console | None = None, pixels: Sequence[int] = ()) -> None:
        """Say where the lines go, and what an epoch costs.

        Args:
            console: Where they go, by default the standard error stream.
            pixels: Of the views of an image in each epoch. The time left takes a step to cost in
                proportion to them, as convolutions do; empty: all steps alike.
        """
        super().__init__()
        self.console = console or Terminal(stderr=True)
        self.pixels = pixels
        self.enabled = True
        self._bar: _TwoLines | None = None
        self._task = TaskID(0)
        self._images = 0
        self._seconds = 0.0
        self._batch_began = 0.0
        self._began = 0.0
        self._first_step = 0
        self._values: list[str] = []

    def disable(self) -> None:
        """Stay silent; Lightning calls it on every rank but the first."""
        self.enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the display."""
        self._began, self._first_step = time.perf_counter(), trainer.global_step
        if not self.enabled or not self.console.is_terminal:
            return
        self._bar = _TwoLines(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=self.console,
        )
        steps = int(trainer.estimated_stepping_batches)
        self._task = self._bar.add_task("epoch 1", total=self._work(trainer, steps))
        self._bar.start()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to time a step; an epoch's first wait for data and evaluation do not count."""
        if batch_idx == 0 or self._batch_began == 0.0:
            self._batch_began = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the step and show where the run is."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        now = time.perf_counter()
        self._seconds += now - self._batch_began
        self._batch_began = now
        self._images += len(batch[1]) * trainer.world_size
        if self._bar is not None:
            steps = int(trainer.estimated_stepping_batches)
            self._bar.update(
                self._task,
                completed=self._work(trainer, trainer.global_step),
                description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} "
                f"step {trainer.global_step}/{steps}",
            )
            rarely = int(trainer.log_every_n_steps) or 50  # type: ignore[attr-defined]
            every = 1 if pl_module.device.type == "cpu" else rarely
            if trainer.global_step % every == 0 or trainer.is_last_batch:
                self._values = self._metrics(trainer)
            self._bar.status = self._status()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print a line where there is no terminal to draw on."""
        if self.enabled and self._bar is None:
            self._values = self._metrics(trainer)
            done, total = trainer.global_step, int(trainer.estimated_stepping_batches)
            elapsed = time.perf_counter() - self._began
            steps = self._first_step, done, total
            first, now, end = (self._work(trainer, step) for step in steps)
            left = elapsed / (now - first or math.inf) * (end - now)
            self.console.print(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} step {done}/{total} "
                f"{self._status()} left {left:.0f} s",
                highlight=False,
                soft_wrap=True,
            )
        self._images, self._seconds = 0, 0.0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the display."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the display, so that the error stands below it."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _work(self, trainer: Trainer, step: int) -> float:
        """What a number of steps costs, which ``max_steps`` may end in any epoch."""
        if not self.pixels:
            return float(step)
        epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        bounds = epoch * np.arange(len(self.pixels) + 1)
        return float(np.interp(step, bounds, np.concatenate([[0], np.cumsum(self.pixels)])))

    def _metrics(self, trainer: Trainer) -> list[str]:
        """What is shown of the metrics, which a GPU is waited for."""
        values = trainer.callback_metrics
        shown = [_shown(name, float(values[k])) for k, name in _METRICS.items() if k in values]
        callbacks: list[Any] = getattr(trainer, "callbacks", [])
        for knn in (each for each in callbacks if isinstance(each, OnlineKNN)):
            if knn.logged in values:
                shown.append(f"kNN (k={knn.k}, epoch {knn.epoch}) {float(values[knn.logged]):.3f}")
        return shown

    def _status(self) -> str:
        rate = self._images / self._seconds if self._seconds else 0.0
        return " ".join([*self._values, f"{rate:.0f} images/s"])


def _shown(name: str, value: float) -> str:
    """A metric by name; an entropy without density is a collapse."""
    return f"{name} collapsed" if value == -math.inf else f"{name} {value:.3f}"
