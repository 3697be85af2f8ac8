"""What is done when the loss or a gradient is not finite any more, and who was the first."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from erssl.callbacks.blame import first_in_backward, first_in_forward, terms_of
from erssl.errors import ErsslWarning, RunError
from erssl.files import write_bytes
from erssl.loss.state import states_of

OnNonFinite = Literal["stop", "skip", "backoff"]
_IN_A_ROW = 10  # steps that are left out until the run ends after all
_SMALLEST = 2.0**-10  # of the share of the learning rate
_CALM = 100  # finite steps until the learning rate is doubled again
_BATCHES = 5  # that are kept at most


class NonFiniteGuard(Callback):
    """Meet a NaN or Inf in the loss or in a gradient, before the optimiser's step.

    ``"stop"`` ends the run. ``"skip"`` leaves the step out: neither weights nor the optimiser's
    moments move, and buffers (running statistics, queues, centres) are those of before the step;
    the schedule goes on, and a target stays. ``"backoff"`` does the same and halves the learning
    rate until 100 steps in a row are finite. Ten steps in a row that are not end the run in any
    case.

    The norms of all gradients are taken on the device. To know in time, ``"skip"`` and
    ``"backoff"`` wait for them in every step; on a CPU that costs nothing. ``"stop"`` on a GPU does
    not wait: the first step that went wrong is remembered on the device, and looked at every
    ``look_every`` steps and before any checkpoint, so that none holds values that are not finite.

    Attributes:
        skipped: Steps that were left out so far.
    """

    def __init__(
        self,
        on_nonfinite: OnNonFinite,
        run_dir: Path,
        save_batch: bool = False,
        look_every: int | None = None,
    ) -> None:
        """Choose what is done.

        Args:
            on_nonfinite: See the class.
            run_dir: Where a batch is kept, and what the sentence names.
            save_batch: Keep the batches; every step is waited for then.
            look_every: Steps between looks; ``None`` for 1 where nothing is gained by fewer, and
                for the trainer's ``log_every_n_steps`` otherwise, at which a GPU is waited for
                anyway.
        """
        self.on_nonfinite = on_nonfinite
        self.run_dir = run_dir
        self.save_batch = save_batch
        self.look_every = look_every
        self.skipped = 0
        self._in_a_row = self._calm = self._kept = 0
        self._share = 1.0
        self._batches: list[Any] = []
        self._before: dict[str, Tensor] = {}
        self._loss_bad: Tensor | None = None
        self._first: _First | None = None

    def state_dict(self) -> dict[str, Any]:
        """Counts and the share of the learning rate."""
        counts = {"skipped": self.skipped, "in_a_row": self._in_a_row, "calm": self._calm}
        return {**counts, "kept": self._kept, "share": self._share}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]
        self._calm, self._kept = state_dict["calm"], state_dict["kept"]
        self._share = state_dict["share"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose how often to look."""
        if self.look_every is None:
            late = self.on_nonfinite == "stop" and not self.save_batch
            rarely = int(trainer.log_every_n_steps) or 50  # type: ignore[attr-defined]
            self.look_every = rarely if late and pl_module.device.type != "cpu" else 1

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep what a step that is left out would need."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._batches, self._loss_bad = [], None
            if self.on_nonfinite != "stop":
                self._before = {n: b.detach().clone() for n, b in _moving(pl_module).items()}
        if self.look_every == 1:
            self._batches.append(batch)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Look at the loss, without waiting for it."""
        bad = ~loss.detach().isfinite().all()
        self._loss_bad = bad if self._loss_bad is None else self._loss_bad | bad

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Look at the gradients, and act."""
        own = [(n, p) for n, p in pl_module.named_parameters() if p.grad is not None]
        flags = self._flags(trainer, [p.grad for _, p in own if p.grad is not None])
        names = tuple(name for name, _ in own)
        if self.look_every != 1:
            self._remember(trainer, pl_module, names, flags)
        elif trainer.strategy.reduce_boolean_decision(bool(flags.any()), all=False):
            where = self._blame(trainer, pl_module, names, flags)
            self._act(trainer, pl_module, where)
            for _, parameter in own:
                parameter.grad = None  # optimisers leave such a parameter alone, momentum and all
            return
        self._in_a_row = 0
        self._calm += 1
        if self._share < 1 and self._calm >= _CALM:
            self._calm, self._share = 0, min(1.0, 2 * self._share)
        for group in optimizer.param_groups:
            group["lr"] *= self._share  # until the scheduler sets it for the next step

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let no checkpoint be taken of a run that went wrong since the last look."""
        self._look(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for the last time."""
        self._look(trainer)

    def _flags(self, trainer: Trainer, gradients: list[Tensor]) -> Tensor:
        """Whether the loss, and each gradient, is not finite: (1 + P,), on the device."""
        loss = self._loss_bad if self._loss_bad is not None else torch.tensor(False)
        if getattr(trainer.precision_plugin, "scaler", None) is not None or not gradients:
            # a scaler of float16 meets overflowing gradients itself, by design
            return torch.cat([loss.reshape(1), loss.new_zeros(len(gradients))])
        norms = torch.stack(torch._foreach_norm(gradients))
        return torch.cat([loss.reshape(1).to(norms.device), ~norms.isfinite()])

    def _remember(
        self, trainer: Trainer, module: LightningModule, names: tuple[str, ...], flags: Tensor
    ) -> None:
        step = trainer.global_step + 1
        terms = terms_of(module)
        bad_terms = torch.stack([~v.isfinite().all() for v in terms.values()]) if terms else flags
        if self._first is None or self._first.names != (names, tuple(terms)):
            self._look(trainer)  # other parameters take part than before
            self._first = _First((names, tuple(terms)), flags, bad_terms)
        self._first.update(step, flags, bad_terms)
        if step % (self.look_every or 1) == 0:
            self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        """Wait for the device; only where steps are not waited for one by one."""
        if self._first is None:
            return
        step = int(self._first.step)
        if trainer.strategy.reduce_boolean_decision(step > 0, all=False):
            raise RunError(self._sentence(max(step, 1), self._first.where()) + self._way_on())

    def _blame(
        self, trainer: Trainer, module: LightningModule, names: tuple[str, ...], flags: Tensor
    ) -> str:
        where = first_in_forward(trainer, module, self._batches)
        return where or first_in_backward(names, flags, terms_of(module))

    def _act(self, trainer: Trainer, module: LightningModule, where: str) -> None:
        step = trainer.global_step + 1
        kept = self._keep_batches(trainer, step) if self.save_batch else ""
        self.skipped += 1
        self._in_a_row += 1
        sentence = self._sentence(step, where)
        if self.on_nonfinite == "stop":
            raise RunError(sentence + kept + self._way_on())
        if self._in_a_row >= _IN_A_ROW:
            raise RunError(
                f"{sentence} So were {_IN_A_ROW} steps in a row, and the run is ended.{kept}"
                + self._way_on()
            )
        for state in states_of(module):
            state.discard()
        own = _moving(module)
        for name, value in self._before.items():
            own[name].copy_(value)
        told = " The step is left out."
        if self.on_nonfinite == "backoff":
            self._calm, self._share = 0, max(_SMALLEST, self._share / 2)
            told = (
                f" The step is left out, and learning rates go to {self._share:g} of the schedule."
            )
        rank_zero_warn(sentence + told + kept, category=ErsslWarning)

    def _sentence(self, step: int, where: str) -> str:
        return f"Step {step} is not finite: {where}."

    def _way_on(self) -> str:
        return (
            " Lower optimizer.base_lr in a new run (or, in half precision, set "
            "trainer.precision=32-true), or go on from the last checkpoint with "
            f"resume=true run_dir={self.run_dir} on_nonfinite=skip or backoff."
        )

    def _keep_batches(self, trainer: Trainer, step: int) -> str:
        if self._kept >= _BATCHES:
            return ""
        self._kept += 1
        rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        file = self.run_dir / f"nonfinite-step{step}{rank}.pt"
        content = {"step": step, "epoch": trainer.current_epoch, "batches": self._batches}
        buffer = io.BytesIO()  # torch says something else of a full disk where it writes itself
        torch.save(content, buffer)
        write_bytes(file, buffer.getvalue())
        return f" Its batch is in {file}."


def _moving(module: LightningModule) -> dict[str, Tensor]:
    """Buffers, and the state of losses, by name."""
    moving = dict(module.named_buffers())
    for number, state in enumerate(states_of(module)):
        moving |= {f"state {number} {name}": value for name, value in state.named_state()}
    return moving


class _First:
    """The first step that was not finite, as tensors on the device; 0 while there is none."""

    def __init__(
        self, names: tuple[tuple[str, ...], tuple[str, ...]], flags: Tensor, terms: Tensor
    ) -> None:
        self.names = names
        self.step = torch.zeros((), dtype=torch.long, device=flags.device)
        self.flags, self.terms = torch.zeros_like(flags), torch.zeros_like(terms)

    def update(self, step: int, flags: Tensor, terms: Tensor) -> None:
        """Take a step's flags, if it is the first bad one."""
        new = flags.any() & (self.step == 0)
        self.step = torch.where(new, step, self.step)
        self.flags = torch.where(new, flags, self.flags)
        self.terms = torch.where(new, terms, self.terms)

    def where(self) -> str:
        """Who it was."""
        names, terms = self.names
        bad = self.terms.tolist() if terms else []
        values = {t: torch.tensor(float("nan") if b else 0.0) for t, b in zip(terms, bad)}  # noqa: B905
        return first_in_backward(names, self.flags, values)
