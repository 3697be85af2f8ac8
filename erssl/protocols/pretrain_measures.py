"""What is measured of a pretraining: while it goes on, before it and after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from torch import nn

from erssl.callbacks import CollapseGuard, ERLens, FrozenBackbone, OnlineKNN
from erssl.data import SSLDataModule, labels_of
from erssl.evaluation import (
    AnyFeatures,
    Features,
    extract_features,
    knn_accuracy,
    linear_accuracy,
    whitened,
)
from erssl.evaluation.knn import cut_sentence
from erssl.evaluation.plausibility import Neighbours, doubts
from erssl.protocols.probes import probe_callbacks
from erssl.run.console import say
from erssl.run.directory import LENS
from erssl.settings.pretrain_options import EvaluationOptions, PretrainSettings


def callbacks_of(
    settings: PretrainSettings, data: SSLDataModule, path: Path, compares_views: bool
) -> list[Callback]:
    """What is read while a run trains: kNN curves and the lens.

    Args:
        settings: The run.
        data: Its images.
        path: Its run directory.
        compares_views: Whether the loss compares embeddings of views.
    """
    callbacks: list[Callback] = []
    if settings.freeze_epochs:
        callbacks.append(FrozenBackbone(settings.freeze_epochs))
    evaluation = settings.evaluation
    if data.measurable and evaluation.every_n_epochs:
        callbacks.append(
            OnlineKNN(
                data.eval_dataloader("train"),
                data.eval_dataloader("val"),
                data.datasets.num_classes,
                evaluation.every_n_epochs,
                evaluation.knn_k,
                evaluation.knn_temperature,
            )
        )
    callbacks += probe_callbacks(evaluation, data, settings.seed)
    lens = settings.lens
    if lens.probe_size != 0:
        # a loss that compares no embeddings leaves them in a cone of few dimensions, and may
        guard = CollapseGuard(stop=lens.on_collapse == "stop")
        if not compares_views:
            guard.max_cosine, guard.min_rank_share = 1.0, 0.0
        callbacks.append(
            ERLens(
                data.probe_views(lens.probe_size),
                every_n_steps=lens.every_n_steps,
                kappas=lens.kappas,
                guard=None if lens.on_collapse == "ignore" else guard,
                path=path / LENS,
            )
        )
    return callbacks


def with_neighbours(
    settings: PretrainSettings, data: SSLDataModule, console: Console | None
) -> PretrainSettings:
    """The settings with no more neighbours of kNN than there are images, which is said once."""
    asked, images = settings.evaluation.knn_k, len(data.datasets.evaluated().train)
    if asked <= images or not data.measurable:
        return settings
    if console is not None:
        say(console, cut_sentence(asked, images))
    evaluation = dataclasses.replace(settings.evaluation, knn_k=images)
    return dataclasses.replace(settings, evaluation=evaluation)


def accuracy(
    backbone: nn.Module,
    data: SSLDataModule,
    options: EvaluationOptions,
    device: torch.device,
    prefix: str = "",
    read: tuple[Features, Features] | None = None,
) -> dict[str, float]:
    """kNN and linear accuracy of frozen features, or nothing where there are no labels.

    Args:
        backbone: What is evaluated.
        data: The images.
        options: How they are evaluated.
        device: Where features are taken.
        prefix: Of the metrics' names.
        read: Features of both splits where they have been read already.
    """
    if not data.measurable:
        return {}
    if read is None:
        backbone = backbone.to(device)
        read = (
            extract_features(backbone, data.eval_dataloader("train"), device),
            extract_features(backbone, data.eval_dataloader("val"), device),
        )
    train, val = read
    kinds: dict[str, tuple[AnyFeatures, AnyFeatures]] = {"knn_top1": read}
    if options.whiten:
        kinds["knn_whitened_top1"] = whitened(train, val)
    classes = data.datasets.num_classes
    metrics = {
        f"{prefix}{name}": knn_accuracy(*both, classes, options.knn_k, options.knn_temperature)
        for name, both in kinds.items()
    }
    if options.linear:
        metrics[f"{prefix}linear_top1"] = linear_accuracy(train, val)
    return metrics


def doubts_of(
    metrics: Mapping[str, float], data: SSLDataModule, options: EvaluationOptions
) -> list[str]:
    """Why the linear accuracy at the end may say nothing of the backbone."""
    if "linear_top1" not in metrics or data.datasets.val is None:
        return []
    labels = torch.from_numpy(labels_of(data.datasets.val))
    compared = Neighbours(metrics["knn_top1"], options.knn_k, len(labels))
    instead = "pretrain for more epochs, or evaluate the run by erssl linear checkpoint=<run_dir>"
    return doubts(
        metrics["linear_top1"], labels, data.datasets.num_classes, compared, instead=instead
    )
