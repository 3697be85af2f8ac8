"""What the command hands to a backend, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from erssl.downstream.detection.coco_data import CocoData
from erssl.downstream.detection.recipes import Recipe, Schedule
from erssl.downstream.detection.voc import VocData
from erssl.run.signals import SignalWatch

Evaluator: TypeAlias = Literal["pycocotools", "faster-coco-eval"]


@dataclass(frozen=True, kw_only=True)
class DetectionJob:
    """One fine-tuning with its evaluation; everything in it has been checked.

    Attributes:
        backbone: A torchvision ResNet from :func:`erssl.load_backbone`, on the CPU.
        preprocessing: ``mean`` and ``std`` of images with values in [0, 1], each of length 3.
        recipe: What is built.
        schedule: How long and at what rate it is trained.
        train: Training images (``CocoData`` or ``VocData``).
        val: Images to evaluate on.
        folder: The run directory; a backend writes checkpoints and curves below it.
        seed: Of weights, order and augmentation.
        resume: Go on with the last checkpoint in the folder.
        eval_only: Evaluate the last checkpoint in the folder and train nothing.
        workers: Loader processes for each device.
        device: Where it is computed.
        devices: How many of that kind.
        min_sizes: Short sides that training images are resized to at random, in pixels.
        max_size: The long side's limit, in pixels.
        test_size: Short side of test images, in pixels.
        rois_per_image: Proposals of each image that the heads are trained on; Detectron2's
            ROI_HEADS.BATCH_SIZE_PER_IMAGE.
        evaluator: What compares predictions with annotations; Detectron2 has pycocotools alone.
        eval_period: Iterations from one evaluation to the next; 0 for the end alone.
        checkpoint_period: Iterations from one checkpoint to the next.
        say: Prints a line for the reader.
        loggers: Lightning's loggers in the folder, of the iteration that is gone on with (``None``:
            from the beginning); Detectron2 has its own.
        signals: Tells when the training shall stop; ``None`` where nothing listens.
    """

    backbone: nn.Module
    preprocessing: Mapping[str, Sequence[float]]
    recipe: Recipe
    schedule: Schedule
    train: CocoData | VocData
    val: CocoData | VocData
    folder: Path
    seed: int
    resume: bool
    eval_only: bool
    workers: int
    device: torch.device
    devices: int
    min_sizes: tuple[int, ...]
    max_size: int
    test_size: int
    rois_per_image: int = 512
    evaluator: Evaluator = "pycocotools"
    eval_period: int
    checkpoint_period: int
    say: Callable[[str], None]
    loggers: Callable[[int | None], Sequence[Any]] = lambda _: ()
    signals: SignalWatch | None = None


@dataclass(frozen=True)
class Detected:
    """What a detector found in one image, in the order of falling score.

    Attributes:
        index: Number of the image in ``val.images``.
        boxes: ``(x0, y0, x1, y1)`` in pixels of the image's own size.
        labels: Contiguous class numbers.
        scores: In [0, 1].
        masks: COCO run-length codes of the image's own size; ``None`` without a mask head.
    """

    index: int
    boxes: list[tuple[float, float, float, float]]
    labels: list[int]
    scores: list[float]
    masks: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class DetectionOutcome:
    """What a backend comes back with.

    Attributes:
        metrics: ``box_AP``, ``box_AP50`` ... and ``mask_AP`` ..., each in [0, 1].
        facts: What else belongs into the record: how many weights were matched, iterations, first
            and last losses.
        predictions: Of some validation images, to be drawn.
        notes: Sentences that a reader of the metrics must know.
    """

    metrics: dict[str, float]
    facts: dict[str, Any]
    predictions: list[Detected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
