"""``erssl linear``: a linear classifier on a frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from pytorch_lightning.loggers import Logger
from rich.console import Console

from erssl.evaluation import AnyFeatures
from erssl.evaluation.linear_on_features import train_linear
from erssl.evaluation.plausibility import neighbours
from erssl.protocols.classifier_training import (
    is_finished,
    keep_backbone,
    keep_seed,
    naming_folder,
    read_seed,
    seed_folder,
    train_seeds,
)
from erssl.protocols.evaluation import Evaluated, Evaluation
from erssl.protocols.subject import read_subject
from erssl.protocols.trainer import probe_trainer, quiet
from erssl.run.faults import restarted
from erssl.run.result import Result
from erssl.settings.evaluation import LinearSettings, read_protocol


def run(overrides: Sequence[str], console: Console) -> Result:
    """Evaluate a backbone by a linear classifier."""
    quiet()
    settings, about_data = read_protocol("linear", LinearSettings, restarted(overrides))
    return linear(settings, about_data, console)


def linear(settings: LinearSettings, about_data: Sequence[str], console: Console) -> Result:
    """Train a linear layer on features, with random crops or on features taken once.

    Returns:
        The folder and its results, which are empty on every process but the first.

    Raises:
        ErsslError: If it cannot be done.
    """
    probe = probe_trainer(settings.trainer, settings.batch_size)
    device = probe.strategy.root_device
    subject = read_subject(settings, about_data, console)
    evaluation = Evaluation("linear", settings, subject)
    settings = evaluation.placed(settings)
    settings = evaluation.fit(settings, len(evaluation.datasets.train), probe.world_size)
    with evaluation.opened(console, probe.is_global_zero):
        if probe.is_global_zero:
            with naming_folder(evaluation.path):
                keep_backbone(evaluation)
        if settings.mode == "cached":
            if not probe.is_global_zero:
                # one process is enough, and all would write to the same files
                return Result(evaluation.path)
            train, val = evaluation.features(settings, device, console)
            evaluated = _on_features(evaluation, settings, train, val, device)
            compared = neighbours(train, val, evaluation.datasets.num_classes)
        else:
            evaluated = train_seeds(evaluation, settings, probe)
            if not probe.is_global_zero:
                return Result(evaluation.path)
            compared = evaluation.neighbours(device, console)
        return evaluation.finish(evaluated, device, console, compared)


def _tell(loggers: Sequence[Logger], row: Mapping[str, float]) -> None:
    """Log an epoch under the names that a training by Lightning gives."""
    metrics = {
        name if name.startswith("train_") else f"val_{name}": value
        for name, value in row.items()
        if name != "epoch"
    }
    for logger in loggers:
        logger.log_metrics({"epoch": row["epoch"], **metrics}, step=int(row["epoch"]))
        logger.save()


def _on_features(
    evaluation: Evaluation,
    settings: LinearSettings,
    train: AnyFeatures,
    val: AnyFeatures,
    device: torch.device,
) -> Evaluated:
    metrics, predicted = [], torch.empty(0)
    for seed in range(settings.seed, settings.seed + settings.seeds):
        folder = seed_folder(evaluation.path, seed)
        if not (settings.resume and is_finished(folder)):
            classes = evaluation.datasets.num_classes
            with (
                naming_folder(evaluation.path),
                evaluation.reporting(folder, seed) as (loggers, report),
            ):
                tell = partial(_tell, loggers)
                result = train_linear(train, val, classes, settings, seed, device, tell)
                names = evaluation.datasets.class_names
                keep_seed(folder, result.history, result.scores, result.head, names)
                report(read_seed(folder)[0])
        row, own = read_seed(folder)
        metrics.append(row)
        predicted = own if seed == settings.seed else predicted
    return Evaluated(metrics, predicted)
