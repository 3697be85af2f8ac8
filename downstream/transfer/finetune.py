"""Fine-tuning as SimCLR and BYOL transfer: a grid of rates, the best on validation, refitted.

Source: Kornblith et al. 2019, §A.5; SimCLR (arXiv 2002.05709) §B.8; MVEB §6.4.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import seed_everything
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from erssl.data.labelled import DrawnImages
from erssl.data.module import make_loader
from erssl.errors import ConfigError, RunError
from erssl.evaluation.classifier import cosine, make_head
from erssl.files import write_json

Metric = Callable[[Tensor, Tensor], float]
_LOOK = 50  # steps between looks at the loss; each makes a GPU wait


@dataclass(frozen=True)
class FinetuneOptions:
    """The grid and what is the same at each of its points.

    Attributes:
        steps: Optimiser steps of each training (MVEB §6.4: 5,000).
        batch_size: Images a step (64).
        learning_rates: Four values from 1e-4 to 1e-1, spaced evenly in the logarithm.
        weight_decays: 0 and four values from 1e-6 to 1e-3; divided by the learning rate for SGD.
        momentum: Of Nesterov's SGD.
    """

    steps: int = 5000
    batch_size: int = 64
    learning_rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    weight_decays: tuple[float, ...] = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)
    momentum: float = 0.9

    def __post_init__(self) -> None:
        """Refuse a grid that trains nothing."""
        if self.steps < 1 or self.batch_size < 1:
            raise ConfigError(
                f"steps and batch_size must be at least 1 but are {self.steps} and "
                f"{self.batch_size}."
            )
        rates = self.learning_rates
        if not rates or not all(0 < rate < math.inf for rate in rates):
            raise ConfigError(f"learning_rates={list(rates)} must be numbers above 0.")
        decays = self.weight_decays
        if not decays or not all(0 <= decay < math.inf for decay in decays):
            raise ConfigError(f"weight_decays={list(decays)} must be numbers of at least 0.")
        if not 0 < self.momentum < 1:
            raise ConfigError(f"momentum={self.momentum} must lie between 0 and 1 (Nesterov's).")

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Every (learning rate, weight decay)."""
        return list(product(self.learning_rates, self.weight_decays))


@dataclass(frozen=True)
class Point:
    """One point of the grid.

    Attributes:
        learning_rate: Of the first step.
        weight_decay: Before it is divided by the learning rate.
        metric: On the validation images; ``None`` where the training diverged.
    """

    learning_rate: float
    weight_decay: float
    metric: float | None


@dataclass(frozen=True)
class Images:
    """The splits of a data set, transformed: crops to train on, plain ones to measure on.

    Attributes:
        train: Crops of the training images.
        val: Plain validation images.
        train_val: Crops of both.
        test: Plain test images.
    """

    train: Dataset[Any]
    val: Dataset[Any]
    train_val: Dataset[Any]
    test: Dataset[Any]


@dataclass(frozen=True)
class Task:
    """What is learnt.

    Attributes:
        outputs: Number of classes C.
        multi_label: Whether an image may be of several: labels (C,) of zeros and ones.
        metric: From scores (N, C) and labels to a number, higher for better.
    """

    outputs: int
    multi_label: bool
    metric: Metric


def finetune(
    backbone: nn.Module,
    images: Images,
    task: Task,
    options: FinetuneOptions,
    folder: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    on_point: Callable[[int, Point], None] | None = None,
    only: Collection[int] | None = None,
) -> tuple[Tensor, Tensor, list[Point]] | None:
    """Train at every point of the grid, choose on validation, train again on all, and test.

    Each point is kept in ``folder`` when it is done, and is not trained again.

    Args:
        backbone: Module giving features (N, feature_dim); a copy of it is trained each time.
        images: The splits.
        task: What is learnt.
        options: The grid.
        folder: Where finished points are kept.
        seed: Of the head, the order and the crops.
        device: Where it is trained.
        workers: Loader processes.
        on_point: Called with the number of a finished point and the point.
        only: Numbers of the points to train, which ends there; ``None`` for all, and what follows.

    Returns:
        Scores (N_test, C) and labels of the test images, and the points; ``None`` with ``only``.

    Raises:
        RunError: If every point diverged, or a kept point cannot be read.
    """
    trainer = _Trainer(backbone, task, options, seed, device, workers)
    points = []
    for number, (rate, decay) in enumerate(options.grid):
        if only is not None and number not in only:
            continue
        file = point_file(folder, number)
        point = _read(file) if file.is_file() else None
        if point is None or (point.learning_rate, point.weight_decay) != (rate, decay):
            model = trainer.fit(images.train, rate, decay)
            value = None if model is None else _value(task, *trainer.scores(model, images.val))
            point = Point(rate, decay, value)
            write_json(file, asdict(point))
        points.append(point)
        if on_point is not None:
            on_point(number, point)
    if only is not None:
        return None
    best = choose(points)
    model = trainer.fit(images.train_val, best.learning_rate, best.weight_decay)
    tested = None if model is None else trainer.scores(model, images.test)
    if tested is None or not tested[0].isfinite().all():
        raise RunError(
            f"The training on all labels diverged at the learning rate {best.learning_rate:g} that "
            "was best on the validation images; leave it out of learning_rates."
        )
    return (*tested, points)


def _value(task: Task, scores: Tensor, labels: Tensor) -> float | None:
    """The metric; ``None`` where scores are not finite, though the last loss was."""
    return task.metric(scores, labels) if scores.isfinite().all() else None


def point_file(folder: Path, number: int) -> Path:
    """Where a finished point of the grid is kept."""
    return folder / f"point{number:02d}.json"


def choose(points: list[Point]) -> Point:
    """The best point; of equal ones that of the smaller learning rate, then weight decay.

    Raises:
        RunError: If every training diverged.
    """
    left = [point for point in points if point.metric is not None]
    if not left:
        raise RunError(
            "Every training of the grid diverged; name smaller rates with learning_rates=[...]."
        )
    return max(left, key=lambda p: (p.metric, -p.learning_rate, -p.weight_decay))


class _Trainer:
    """One training at a time, all from the same weights and the same order."""

    def __init__(
        self,
        backbone: nn.Module,
        task: Task,
        options: FinetuneOptions,
        seed: int,
        device: torch.device | str,
        workers: int,
    ) -> None:
        self.backbone, self.task, self.options = backbone, task, options
        self.seed, self.device, self.workers = seed, device, workers

    def fit(self, images: Dataset[Any], rate: float, decay: float) -> nn.Module | None:
        """Train on the images; ``None`` where the loss is not finite any more.

        Head, order, crops and dropout follow from the seed alone, whatever was trained before.
        """
        with isolate_rng():
            seed_everything(self.seed, verbose=False)
            return self._fit(images, rate, decay)

    def _fit(self, images: Dataset[Any], rate: float, decay: float) -> nn.Module | None:
        options = self.options
        feature_dim: Any = self.backbone.feature_dim
        head = make_head(feature_dim, self.task.outputs, "torch")
        backbone = copy.deepcopy(self.backbone).requires_grad_(True)
        model = nn.Sequential(backbone, nn.Flatten(), head).to(self.device).train()
        optimizer = torch.optim.SGD(
            model.parameters(), rate, options.momentum, weight_decay=decay / rate, nesterov=True
        )
        for step, (batch, labels) in enumerate(self._batches(images)):
            optimizer.param_groups[0]["lr"] = rate * cosine(options.steps, step)
            loss = self._loss(model(batch.to(self.device)), labels.to(self.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % _LOOK == 0 or step + 1 == options.steps:
                weights = (p.isfinite().all() for p in model.parameters())
                if not (math.isfinite(float(loss.detach())) and all(map(bool, weights))):
                    return None
        return model.eval()

    @torch.no_grad()
    def scores(self, model: nn.Module, images: Dataset[Any]) -> tuple[Tensor, Tensor]:
        """Scores (N, C) and labels of all images, on the CPU."""
        loader = make_loader(images, self.options.batch_size, self.workers, self.seed)
        pairs = [(model(batch.to(self.device)).cpu(), labels) for batch, labels in loader]
        scores, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        return scores, labels

    def _batches(self, images: Dataset[Any]) -> DataLoader[Any]:
        """As many full batches as there are steps, the images drawn anew each time around.

        Order and crops depend on seed, round and image alone, not on the number of loader
        processes.
        """
        count = len(images)  # type: ignore[arg-type]
        size = min(self.options.batch_size, count)
        whole = count // size * size  # of a round; what is left over has no batch
        rounds = -(-self.options.steps * size // whole)
        places = [
            (epoch, int(index))
            for epoch in range(rounds)
            for index in np.random.RandomState([self.seed, epoch]).permutation(count)[:whole]
        ]
        places = places[: self.options.steps * size]
        drawn = DrawnImages(images, self.seed)
        return make_loader(drawn, size, self.workers, self.seed, sampler=places)

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        if self.task.multi_label:
            return F.binary_cross_entropy_with_logits(scores, labels.float())
        return F.cross_entropy(scores, labels)


def _read(file: Path) -> Point:
    try:
        return Point(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise RunError(
            f"{file} is not what a fine-tuning leaves; delete it, or start again with "
            "overwrite=true."
        ) from error
