"""One data set of the suite from the backbone to its metric, linear or fine-tuned."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from erssl.data import TransformedDataset
from erssl.downstream.transfer.datasets import TransferData
from erssl.downstream.transfer.finetune import (
    FinetuneOptions,
    Images,
    Point,
    Task,
    choose,
    finetune,
)
from erssl.downstream.transfer.linear_transfer import linear_probe
from erssl.downstream.transfer.solver import MAX_ITER, TOLERANCE
from erssl.downstream.transfer.suite_metrics import transfer_metrics
from erssl.downstream.transfer.transforms import (
    TransferPreprocessing,
    build_finetune_transform,
    build_linear_transform,
)
from erssl.evaluation import AnyFeatures, cached_features
from erssl.evaluation.plausibility import MOST_ASKED, MOST_VOTERS, doubts, neighbours, sample
from erssl.evaluation.rows import selected

MULTI_LABEL = "map11"  # the metric of data sets whose images may be of several classes


@dataclass(frozen=True)
class Outcome:
    """What a data set came to.

    Attributes:
        metrics: On the test images, the data set's own metric among them.
        facts: How it was chosen: penalty or grid, and what converged.
        notes: Sentences that a reader of the metric must know.
        warnings: Sentences on why the metric may say nothing of the backbone.
    """

    metrics: dict[str, float]
    facts: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def run_linear(
    backbone: nn.Module,
    data: TransferData,
    preprocessing: TransferPreprocessing,
    extraction: Mapping[str, Any],
    device: torch.device | str = "cpu",
    partial_ok: bool = False,
    tolerance: float = TOLERANCE,
    max_iter: int = MAX_ITER,
    take: Callable[..., AnyFeatures] = cached_features,
) -> Outcome:
    """Logistic regression on features that are taken once.

    Args:
        backbone: Module giving features (N, feature_dim).
        data: The data set.
        preprocessing: Size and statistics of its images.
        extraction: Arguments of :func:`erssl.evaluation.cached_features` beside these.
        device: Where features are taken and classifiers fitted.
        partial_ok: Whether classes may lack test images.
        tolerance: Of the gradient.
        max_iter: Steps at each penalty at the most.
        take: :func:`erssl.evaluation.cached_features`, or
            :func:`erssl.evaluation.stored_features` for features that stay on disk.

    Returns:
        Metrics, the path of penalties and notes.

    Raises:
        DataError: If an image cannot be read or features are not finite.
    """
    transform = build_linear_transform(preprocessing)
    both, test = (
        take(
            backbone,
            images,
            transform,
            preprocessing=preprocessing.as_dict(),
            device=device,
            **extraction,
        )
        for images in (data.train_val, data.test)
    )
    parts = (torch.from_numpy(i) for i in (data.train_indices, data.val_indices))
    train, val = (selected(both, i) for i in parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the notes name each of them
        probe = linear_probe(
            train,
            val,
            test,
            data.num_classes,
            _metric(data, partial_ok),
            tolerance=tolerance,
            max_iter=max_iter,
            device=device,
        )
    facts = {
        "penalty": probe.lam,
        "val_metric": probe.val_metric,
        "path": [dict(point._asdict()) for point in probe.path],
    }
    metrics = transfer_metrics(
        data.metric, probe.scores, test.labels, data.class_names, partial_ok=partial_ok
    )
    return Outcome(metrics, facts, [*data.notes, *probe.notes], _doubts(data, metrics, both, test))


def run_finetune(
    backbone: nn.Module,
    data: TransferData,
    preprocessing: TransferPreprocessing,
    options: FinetuneOptions,
    folder: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    partial_ok: bool = False,
    on_point: Callable[[int, Point], None] | None = None,
    only: Collection[int] | None = None,
) -> Outcome | None:
    """Train backbone and classifier at every point of the grid, and the best again on all labels.

    Args:
        backbone: Module giving features (N, feature_dim).
        data: The data set.
        preprocessing: Size and statistics of its images.
        options: The grid.
        folder: Where finished points are kept.
        seed: Of the head, the order and the crops.
        device: Where it is trained.
        workers: Loader processes.
        partial_ok: Whether classes may lack test images.
        on_point: Called with each finished point.
        only: Numbers of the points to train, which ends there; ``None`` for all, and the test.

    Returns:
        Metrics, the grid and notes; ``None`` with ``only``.

    Raises:
        RunError: If every training diverged.
    """
    crop, plain = build_finetune_transform(preprocessing), build_linear_transform(preprocessing)
    images = Images(
        train=TransformedDataset(data.train, crop),
        val=TransformedDataset(data.val, plain),
        train_val=TransformedDataset(data.train_val, crop),
        test=TransformedDataset(data.test, plain),
    )
    task = Task(data.num_classes, data.metric == MULTI_LABEL, _metric(data, partial_ok))
    trained = finetune(
        backbone, images, task, options, folder, seed, device, workers, on_point, only
    )
    if trained is None:
        return None
    scores, labels, points = trained
    metrics = transfer_metrics(data.metric, scores, labels, data.class_names, partial_ok=partial_ok)
    diverged = sum(point.metric is None for point in points)
    notes = [f"{diverged} of {len(points)} trainings diverged."] if diverged else []
    facts = {"chosen": asdict(choose(points)), "grid": [asdict(point) for point in points]}
    frozen = (
        cached_features(
            backbone,
            images,
            plain,
            cache_dir=None,
            preprocessing=preprocessing.as_dict(),
            batch_size=options.batch_size,
            num_workers=workers,
            device=device,
        )
        for images in (sample(data.train_val, MOST_VOTERS), sample(data.test, MOST_ASKED))
    )
    return Outcome(metrics, facts, [*data.notes, *notes], _doubts(data, metrics, *frozen))


def _doubts(
    data: TransferData, metrics: Mapping[str, float], train: AnyFeatures, test: AnyFeatures
) -> list[str]:
    """What makes the metric doubtful; nothing is said of several classes an image."""
    if data.metric == MULTI_LABEL:
        return []
    compared = neighbours(train, test, data.num_classes)
    return doubts(metrics["top1"], test.labels, data.num_classes, compared)


def _metric(data: TransferData, partial_ok: bool) -> Callable[[Tensor, Tensor], float]:
    def measure(scores: Tensor, labels: Tensor) -> float:
        metrics = transfer_metrics(data.metric, scores, labels, partial_ok=partial_ok)
        return float(metrics[data.metric])

    return measure
