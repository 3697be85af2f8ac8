"""Lightning's Trainer, its loggers and its checkpoints, as every training command uses them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from erssl.callbacks import RankOrderedGradients
from erssl.errors import ConfigError
from erssl.limits import check_processes
from erssl.protocols.loggers import make_loggers
from erssl.run.checkpoint_files import Resumed, WholeCheckpointIO, newest_whole
from erssl.run.directory import LAST_CHECKPOINT
from erssl.run.launch import started_processes
from erssl.settings.trainer import AUTO


def quiet() -> None:
    """Leave out what Lightning says about itself."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")


def probe_trainer(trainer: Mapping[str, Any], batch_size: int) -> Trainer:
    """A trainer that trains nothing, to learn which devices there are before any work.

    Raises:
        ConfigError: If the settings make no trainer, or the batch cannot be shared by the devices.
    """
    accelerator = trainer.get("accelerator")
    other_gpu = accelerator == "gpu" and torch.backends.mps.is_available()
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available() and not other_gpu:
        raise ConfigError(
            f"trainer.accelerator={accelerator} but torch {torch.__version__} sees no CUDA device; "
            "choose trainer.accelerator=cpu or auto, or check the driver."
        )
    try:
        chosen_later = {"precision": None} if trainer.get("precision") == AUTO else {}
        probe = Trainer(
            **{**trainer, **chosen_later},
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
    except Exception as error:  # whatever Lightning has to say against its own arguments
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"Lightning's Trainer refuses these trainer settings ({reason}); change trainer.*."
        ) from error
    if isinstance(probe.strategy.launcher, _MultiProcessingLauncher):  # as in a notebook
        raise ConfigError(
            "trainer.devices has several devices, whose processes a notebook cannot start; set "
            "trainer.devices=1 there, or run erssl from a terminal."
        )
    if probe.strategy.root_device.type == "cpu":
        check_processes("trainer.devices", probe.num_devices)
    started = started_processes()
    if started > 1 and probe.world_size != started:  # each would take itself for the only one
        raise ConfigError(
            f"{started} processes were started but the trainer has {probe.world_size}; set "
            "trainer.devices to those of a machine, trainer.num_nodes and trainer.strategy=ddp."
        )
    if batch_size % probe.world_size:
        raise ConfigError(
            f"batch_size={batch_size} cannot be shared by {probe.world_size} devices; "
            "choose a multiple."
        )
    return probe


def resumed(path: Path) -> Resumed | None:
    """The checkpoint of a run directory to go on from; ``None`` where there is none.

    Raises:
        RunError: If none of those that are kept can be read.
    """
    return newest_whole(path / LAST_CHECKPOINT)


def make_trainer(
    options: Mapping[str, Any],
    path: Path,
    epochs: int,
    callbacks: Sequence[Callback],
    resumed_from: Resumed | None,
    keep: int = 1,
    loggers: Sequence[Logger] | None = None,
    **more: Any,
) -> Trainer:
    """The trainer of a run in a directory.

    Args:
        options: Arguments of Lightning's.
        path: The directory.
        epochs: How long it trains.
        callbacks: What is called.
        resumed_from: The checkpoint that it goes on from.
        keep: Checkpoints that stay.
        loggers: What it reports to; ``None`` for those of :func:`make_loggers`.
        **more: Further arguments of Lightning's.
    """
    step = None if resumed_from is None else resumed_from.step
    return Trainer(
        **options,
        max_epochs=epochs,
        logger=make_loggers(path, step) if loggers is None else list(loggers),
        callbacks=[*callbacks, RankOrderedGradients()],
        plugins=[WholeCheckpointIO(keep, resumed_from)],
        enable_model_summary=False,
        default_root_dir=path,
        num_sanity_val_steps=0,
        **more,
    )


def train(
    trainer: Trainer,
    module: LightningModule,
    data: LightningDataModule,
    resumed_from: Resumed | None,
) -> None:
    """Train, or go on from a checkpoint.

    Args:
        trainer: Of :func:`make_trainer`.
        module: What is trained.
        data: What it is trained on.
        resumed_from: The checkpoint that it goes on from.
    """
    # Lightning reads a checkpoint into the module before it gives it the trainer's precision, and
    # float64 would be rounded to float32 on its way.
    trainer.precision_plugin.convert_module(module)
    checkpoint = None if resumed_from is None else resumed_from.path
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
