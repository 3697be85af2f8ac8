"""Training a classifier by a protocol, once for each seed, and going on where it was stopped."""

from __future__ import annotations

import copy
import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer, seed_everything
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from erssl.callbacks import LiveProgress, RunCheckpoint
from erssl.data import LabelledDataModule
from erssl.data.labelled import Indices
from erssl.errors import ConfigError, ErsslError, RunError, was_interrupted
from erssl.evaluation.classifier import ClassifierTraining, best_epoch
from erssl.files import replacing, write_json
from erssl.models import save_backbone
from erssl.models.loading import WEIGHTS_FILE
from erssl.protocols.evaluation import Evaluated, Evaluation
from erssl.protocols.trainer import make_trainer, resumed, train
from erssl.run.console import Terminal
from erssl.run.directory import CONFIG, LAST_CHECKPOINT, RUN_DIR_VARIABLE
from erssl.run.faults import fault_from_outside
from erssl.run.head_files import HEAD, save_head
from erssl.run.signals import SignalWatch
from erssl.settings.evaluation import TrainingSettings

SEED = "seed.json"  # which marks a training as finished
_PREDICTED = "predicted.safetensors"


def train_seeds(
    evaluation: Evaluation,
    settings: TrainingSettings,
    probe: Trainer,
    indices: Indices | None = None,
) -> Evaluated:
    """Train with each seed; those that are finished in the folder are not trained again.

    Args:
        evaluation: Images and folder.
        settings: The protocol.
        probe: A trainer of the same settings, which knows the devices.
        indices: Training images to use; ``None`` for all.
    """
    metrics, predicted = [], torch.empty(0)
    for seed in range(settings.seed, settings.seed + settings.seeds):
        folder = seed_folder(evaluation.path, seed)
        if not (settings.resume and is_finished(folder)):
            with naming_folder(evaluation.path) as signals:
                _train(evaluation, settings, probe, indices, seed, folder, signals)
        row, own = read_seed(folder)
        metrics.append(row)
        predicted = own if seed == settings.seed else predicted
    return Evaluated(metrics, predicted)


def require_pairs(settings: TrainingSettings, probe: Trainer, images: int) -> None:
    """Make sure that batch normalisation has more than one image to take a variance of.

    Args:
        settings: Of a protocol that trains the backbone.
        probe: A trainer that knows the devices.
        images: Number of training images.

    Raises:
        ConfigError: If a step has fewer than two on a device.
    """
    devices = probe.world_size
    if min(settings.batch_size, images) < 2 * devices:
        raise ConfigError(
            f"batch_size={settings.batch_size} of {images} training images on {devices} "
            "device(s) is one image or none on a device, and a backbone that is trained needs at "
            f"least 2; set batch_size to {2 * devices} or more, or use more images."
        )


@contextmanager
def naming_folder(path: Path) -> Iterator[SignalWatch]:
    """Say of a signal how to go on, and of a full disk where it is.

    Args:
        path: The folder of the evaluation, which is all that is written to.

    Yields:
        What tells a training that a signal was heard.

    Raises:
        Stopped: At a signal, with the sentence that the command line ends with.
        KeyboardInterrupt: Likewise, where the signals are handled by somebody else.
        OSError: With the folder, where nothing else is named.
        RunError: If loader processes or the memory ended it.
    """
    signals = SignalWatch(path, CONFIG)
    try:
        with signals.installed():
            yield signals
    except (KeyboardInterrupt, SystemExit) as end:
        if not was_interrupted(end):
            raise
        sentence = f"Stopped by Ctrl-C; go on with resume=true run_dir={path}."
        raise KeyboardInterrupt(sentence) from end
    except ErsslError:
        raise  # RunError is an OSError too, and says where
    except Exception as error:
        if (what := fault_from_outside(error)) is not None:
            raise RunError(f"{what}; go on with resume=true run_dir={path}.") from error
        _name_folder(error, path)
        raise


def _name_folder(error: Exception, path: Path) -> None:
    """Say of a full disk where it is."""
    if isinstance(error, OSError):
        error.filename = error.filename or str(path)  # of a write to a file that is open
    elif isinstance(error, SafetensorError) and f"os error {errno.ENOSPC}" in str(error):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def seed_folder(path: Path, seed: int) -> Path:
    """Where the training with one seed is kept."""
    folder = path / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_finished(folder: Path) -> bool:
    """Whether the training of this folder came to its end."""
    return (folder / SEED).is_file()


def keep_seed(
    folder: Path,
    history: list[dict[str, float]],
    scores: Tensor,
    head: nn.Module,
    classes: Sequence[str],
) -> None:
    """Write what a training came to; ``seed.json`` last, since it marks it as finished."""
    last, best = history[-1], best_epoch(history)
    metrics = {k: v for k, v in last.items() if k not in ("epoch", "train_loss")}
    metrics |= {"best_on_val_top1": best["top1"], "best_on_val_epoch": best["epoch"] + 1}
    with replacing(folder / _PREDICTED) as partial:
        save_file({"predicted": scores.argmax(dim=1)}, partial)
    save_head(folder / HEAD, head, classes)
    write_json(folder / SEED, {"metrics": metrics, "history": history})


def read_seed(folder: Path) -> tuple[dict[str, float], Tensor]:
    """Metrics and predictions of a finished training.

    Raises:
        RunError: If they cannot be read.
    """
    try:
        content: dict[str, Any] = json.loads((folder / SEED).read_text(encoding="utf-8"))
        metrics: dict[str, float] = content["metrics"]
        return metrics, load_file(folder / _PREDICTED)["predicted"]
    except Exception as error:  # damaged by hand or by a disk, in any way
        raise RunError(
            f"{folder} is not what a training leaves; delete that folder alone, and resume=true "
            "trains its seed again."
        ) from error


def _train(
    evaluation: Evaluation,
    settings: TrainingSettings,
    probe: Trainer,
    indices: Indices | None,
    seed: int,
    folder: Path,
    signals: SignalWatch,
) -> None:
    seed_everything(seed, workers=True, verbose=False)
    subject = evaluation.subject
    frozen = settings.backbone_lr is None
    data = LabelledDataModule(
        subject.data,
        evaluation.datasets,
        settings.batch_size // probe.world_size,
        seed,
        settings.crop_scale,
        settings.flip,
        indices,
        drop_last=not frozen,
        devices=probe.world_size,
    )
    step_size = data.batch_size * probe.world_size * probe.accumulate_grad_batches
    size = min(step_size, len(data.train_images))  # an epoch's end is a step in any case
    backbone = copy.deepcopy(subject.backbone)
    backbone.preprocessing = subject.data.preprocessing  # type: ignore[assignment]
    module = ClassifierTraining(backbone, evaluation.datasets.num_classes, settings, size, seed)
    resumed_from = resumed(folder) if settings.resume else None
    kept = RunCheckpoint(folder / LAST_CHECKPOINT, signals=signals)
    callbacks = [LiveProgress(Terminal(stderr=True, quiet=evaluation.subject.quiet)), kept]
    step = None if resumed_from is None else resumed_from.step
    with evaluation.reporting(folder, seed, step) as (loggers, report):
        trainer = make_trainer(
            settings.trainer,
            folder,
            settings.epochs,
            callbacks,
            resumed_from,
            loggers=loggers,
            use_distributed_sampler=False,
        )
        os.environ[RUN_DIR_VARIABLE] = str(evaluation.path)
        try:
            train(trainer, module, data, resumed_from)
            signals.training_ends()
        finally:
            os.environ.pop(RUN_DIR_VARIABLE, None)
        if module.validated_step != trainer.global_step:  # check_val_every_n_epoch, or resumed
            module.history = [row for row in module.history if row["epoch"] < settings.epochs - 1]
            trainer.validate(module, datamodule=data, verbose=False)
            module.history[-1]["epoch"] = settings.epochs - 1.0
        if trainer.is_global_zero:
            if not frozen:
                weights = folder / WEIGHTS_FILE
                about = _architecture(backbone), subject.data.preprocessing
                save_backbone(backbone, weights, *about)
            classes = evaluation.datasets.class_names
            keep_seed(folder, module.history, module.scores, module.head, classes)
            report(read_seed(folder)[0])
        trainer.strategy.barrier()  # the other processes read what the first has written


def keep_backbone(evaluation: Evaluation) -> None:
    """Write the frozen backbone beside its classifiers, which are of no use without it."""
    subject = evaluation.subject
    architecture: Any = getattr(subject.backbone, "architecture", None)
    if architecture is not None:  # raw pixels have none
        path = evaluation.path / WEIGHTS_FILE
        save_backbone(subject.backbone, path, architecture, subject.data.preprocessing)


def _architecture(backbone: nn.Module) -> Any:
    return backbone.architecture
