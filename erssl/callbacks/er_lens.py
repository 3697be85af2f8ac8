"""The lens as a callback: entropy and reconstruction of any module while it trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightly.utils import dist
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils._pytree import tree_leaves

from erssl.callbacks.collapse import CollapseGuard
from erssl.errors import ConfigError, ErsslWarning, RunError
from erssl.evaluation.features import eval_mode
from erssl.evaluation.lens_quantities import KAPPAS, lens_reading
from erssl.run.directory import write_lens

Embed = Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]
_CHUNK = 256  # images that pass the network at a time
_MOST_READINGS = 500  # of a run whose interval was not given: a curve needs no more


class ERLens(Callback):
    """Read H, E[log q] and their sum on a fixed probe set; see :func:`lens_reading`.

    Works on every LightningModule. A method of erssl needs nothing else; for another module give
    ``embed``, images to embedding, or to (embedding, logits):

        ``ERLens(views, embed=lambda images: model.projection_head(model(images)))``

    The module is read in eval mode and without gradient, and is left as it was: neither its
    weights, its running statistics nor the random number generators move. Of W processes each
    embeds its share of the probe, and all read the whole.

    Attributes:
        readings: One dictionary a reading, with ``step``, ``epoch`` and ``seconds``.
    """

    def __init__(
        self,
        views: Sequence[Tensor],
        embed: Embed | None = None,
        every_n_steps: int | None = None,
        kappas: Sequence[float] = KAPPAS,
        guard: CollapseGuard | None = None,
        path: str | Path | None = None,
        share: float = 0.015,
    ) -> None:
        """Look at two views of the same images.

        Args:
            views: Two tensors (N, 3, H, W), the same N images in two views; see
                ``SSLDataModule.probe_views``.
            embed: Images (n, 3, H, W) to embeddings (n, d), or to these and logits (n, K);
                ``None`` takes the module's own ``embed`` and ``logits``.
            every_n_steps: Optimiser steps between two readings; ``None`` chooses them so that
                the forward passes of the probe take ``share`` of those of training (a backward
                pass counted as two forward passes), and that there are 500 readings at most.
            kappas: Concentrations at which the density is read.
            guard: Warns of a collapse, or ends the run; ``None`` for none.
            path: Where to write ``lens.csv``; ``None`` for nowhere.
            share: See ``every_n_steps``.

        Raises:
            ConfigError: If the views are not two, do not fit, or a value is out of range.
        """
        if len(views) != 2 or views[0].shape != views[1].shape or len(views[0]) < 2:
            shapes = [tuple(v.shape) for v in views]
            raise ConfigError(
                f"The lens needs two views of the same images, at least two, but has {shapes}."
            )
        if every_n_steps is not None and every_n_steps < 1:
            raise ConfigError(f"lens.every_n_steps must be at least 1 but is {every_n_steps}.")
        if not kappas or min(kappas) <= 0 or not 0 < share < 1:
            raise ConfigError(
                "The lens needs kappas above 0 and share in (0, 1) but has "
                f"{list(kappas)} and {share}."
            )
        self.views = [v.detach().cpu() for v in views]
        self.embed = embed
        self.every_n_steps = every_n_steps
        self.kappas = tuple(float(k) for k in kappas)
        self.guard = guard
        self.path = None if path is None else Path(path)
        self.share = share
        self.readings: list[dict[str, float]] = []
        self._interval: int | None = every_n_steps
        self._last_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without embeddings, before training.

        Raises:
            ConfigError: If there is no function to read it by, or a process would have no image.
        """
        if len(self.views[0]) < trainer.world_size:
            raise ConfigError(
                f"The lens has {len(self.views[0])} images for {trainer.world_size} processes; "
                "give at least one each."
            )
        if self.embed is None and not callable(getattr(pl_module, "embed", None)):
            raise ConfigError(
                f"The lens cannot read a {type(pl_module).__name__}, which has no embed(images); "
                "give it one, ERLens(views, embed=lambda images: ...), from images (N, 3, H, W) "
                "to embeddings (N, d)."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the untrained module; a resumed run goes on from its checkpoint's readings."""
        self._last_step = trainer.global_step if trainer.global_step else -1
        if trainer.global_step == 0:
            self.readings = []
            self._measure(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Readings so far and what the guard has seen, kept in the checkpoint."""
        guard = self.guard.state_dict() if self.guard else None
        return {"readings": self.readings, "guard": guard}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.readings = list(state["readings"])
        self._last_step = int(self.readings[-1]["step"]) if self.readings else -1
        if self.guard and state["guard"]:
            self.guard.load_state_dict(state["guard"])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Choose the interval by what the first batch costs, unless it was given."""
        if self._interval is None:
            leaves = [x for x in tree_leaves(batch) if isinstance(x, Tensor) and x.ndim == 4]
            pixels = sum(x.numel() for x in leaves) * trainer.accumulate_grad_batches
            probe = sum(view.numel() for view in self.views) / trainer.world_size
            by_share = probe / (3 * max(pixels, 1) * self.share)
            by_count = float(trainer.estimated_stepping_batches) / _MOST_READINGS
            self._interval = max(1, math.ceil(max(by_share, min(by_count, 1e4))))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Read after every n-th optimiser step."""
        if self._interval and trainer.global_step % self._interval == 0:
            self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the trained module."""
        self._measure(trainer, pl_module)

    def read(self, module: torch.nn.Module) -> dict[str, float]:
        """One reading of a module as it is now; see :func:`lens_reading`."""
        embeddings, logits = self.outputs(module)
        return lens_reading(embeddings, logits, self.kappas)

    def outputs(self, module: torch.nn.Module) -> tuple[list[Tensor], list[Tensor] | None]:
        """Embeddings (N, d) of both views, rows as they are, and logits where there are some."""
        parameter = next(module.parameters(), torch.empty(0))
        rank, world = dist.rank(), dist.world_size()
        count = len(self.views[0])
        share = -(-count // world)
        own = torch.arange(rank * share, (rank + 1) * share) % count  # all gather as many
        with eval_mode(module), torch.no_grad():
            parts = [self._pass(module, view[own].to(parameter)) for view in self.views]
        embeddings = [_gathered(embedding)[:count] for embedding, _ in parts]
        logits = [_gathered(x)[:count] for _, x in parts if x is not None]
        return embeddings, logits or None

    def _pass(self, module: torch.nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
        embeddings, logits = [], []
        for chunk in images.split(_CHUNK):
            output = (self.embed or _own_embed(module))(chunk)
            embedding, outcome = output if isinstance(output, tuple) else (output, None)
            embeddings.append(embedding.flatten(start_dim=1))
            logits += [] if outcome is None else [outcome]
        self._dim = embeddings[0].shape[1]
        return torch.cat(embeddings), torch.cat(logits) if logits else None

    def _measure(self, trainer: Trainer, module: LightningModule) -> None:
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        began = time.perf_counter()
        reading = self.read(module)
        seconds = time.perf_counter() - began
        row = {"step": step, "epoch": trainer.current_epoch, **reading, "seconds": seconds}
        self.readings.append(row)
        if trainer.is_global_zero:
            if self.path is not None:
                write_lens(self.path, self.readings)
            for logger in trainer.loggers:
                if not isinstance(logger, CSVLogger):  # which lens.csv stands beside
                    logger.log_metrics({f"lens/{k}": v for k, v in reading.items()}, step=step)
        sentence = self.guard.check(step, reading, self._dim) if self.guard else None
        if sentence and self.guard and self.guard.stop:
            raise RunError(f"{sentence} The run was ended, as asked.")
        if sentence:
            rank_zero_warn(sentence, category=ErsslWarning)


def _own_embed(module: Any) -> Embed:
    def embed(images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        embedding: Tensor = module.embed(images)
        logits = module.logits(embedding) if hasattr(module, "logits") else None
        return embedding if logits is None else (embedding, logits)

    return embed


def _gathered(x: Tensor) -> Tensor:
    return torch.cat(dist.gather(x.contiguous())) if dist.world_size() > 1 else x
