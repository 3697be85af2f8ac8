"""``erssl detect``: detection and instance segmentation from a pretrained backbone."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from rich.console import Console
from torch import nn
from torchvision.models import ResNet

from erssl.data.options import loader_processes
from erssl.downstream.detection.coco_data import CocoData
from erssl.downstream.detection.job import DetectionJob, DetectionOutcome
from erssl.downstream.detection.recipes import DETECTRON2_GUIDE, Recipe, Schedule, scaled
from erssl.downstream.detection.voc import VocData
from erssl.errors import ConfigError, DataError, installing
from erssl.evaluation.fingerprints import weights_digest
from erssl.evaluation.published import published
from erssl.protocols.classifier_training import naming_folder
from erssl.protocols.detect_data import data_digests, read_data
from erssl.protocols.ending import end_evaluation
from erssl.protocols.loggers import make_loggers, reporting
from erssl.protocols.record import folder_for, prepare_folder, undone_without_loggers
from erssl.protocols.subject import Read, assumed_of, read_backbone, require_rgb, slug
from erssl.protocols.trainer import quiet
from erssl.run.console import say
from erssl.run.directory import (
    PREDICTIONS,
    RUN_DIR_VARIABLE,
)
from erssl.run.faults import restarted
from erssl.run.lock import locked
from erssl.run.result import Result
from erssl.run.signals import SignalWatch
from erssl.settings.detection import MAY_CHANGE, DetectSettings, read_detect

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_WHOLE = {"coco": (118_287, 5_000), "voc": (16_551, 4_952)}  # images to train and to evaluate on
_ROIS = 512  # of every recipe
_STEM = (7, 7)  # kernel of a ResNet's first convolution


def run(overrides: Sequence[str], console: Console) -> Result:
    """Evaluate a backbone by what a detector on it finds."""
    quiet()
    return detect(read_detect(restarted(overrides)), console)


def detect(settings: DetectSettings, console: Console) -> Result:
    """Fine-tune a detector and evaluate it.

    Returns:
        The folder and its results, which are empty on every process but the first.

    Raises:
        ErsslError: If it cannot be done.
    """
    began = time.perf_counter()
    backend = find_backend(settings.backend, settings.evaluator)
    read = read_backbone(settings, console)
    require_rgb(read.backbone, "detect")
    require_resnet(read.backbone, read.name, settings.backend)
    schedule = scaled(
        settings.chosen, settings.batch_size, settings.iterations, settings.learning_rate
    )
    train, val = read_data(settings, _workers(settings))
    folder = folder_for(settings.run_dir, "detect", slug(read.name), train.name)
    first = os.environ.get("LOCAL_RANK", "0") == "0"

    def tell(line: str) -> None:
        if first:
            say(console, line)

    digests = {"weights": weights_digest(read.backbone), **data_digests(settings, train, val)}
    config = {**asdict(settings), **assumed_of(read.backbone), "digests": digests}
    # the other processes of torch's launcher come when it has begun
    with locked(folder) if first else nullcontext():
        if first:
            prepare_folder(
                folder,
                config,
                goes_on=settings.resume or settings.eval_only,
                overwrite=settings.overwrite,
                may_change=MAY_CHANGE,
            )
            for line in (schedule.sentence, *train.notes, *val.notes):
                tell(line)
        os.environ[RUN_DIR_VARIABLE] = str(folder)
        try:
            began_before = settings.resume or settings.eval_only
            with (
                undone_without_loggers(folder, began_before),
                naming_folder(folder) as signals,
                _Reports(settings, folder, config) as reports,
            ):
                job = _job(settings, read, schedule, train, val, folder, tell, signals, reports)
                outcome = backend(job)
                reports.tell(outcome.metrics)
        finally:
            os.environ.pop(RUN_DIR_VARIABLE, None)
        if not first:
            return Result(folder)
        return _finish(settings, job, read, outcome, config, began, console)


def find_backend(
    name: str, evaluator: str = "pycocotools"
) -> Callable[[DetectionJob], DetectionOutcome]:
    """The function that trains and evaluates.

    Raises:
        ConfigError: If a package that it needs is not installed.
    """
    if name == "detectron2" and find_spec("detectron2") is None:
        raise ConfigError(
            "backend=detectron2 needs Detectron2, which is on no package index; install it as "
            f"{DETECTRON2_GUIDE} says, or use backend=torchvision."
        )
    if find_spec("pycocotools") is None:
        raise ConfigError(
            f"erssl detect needs pycocotools, which is not installed; {installing('detection')}."
        )
    if evaluator == "faster-coco-eval" and find_spec("faster_coco_eval") is None:
        raise ConfigError(
            f"evaluator=faster-coco-eval is not installed; {installing('fast-detection')}, or "
            "leave evaluator out."
        )
    module = importlib.import_module(f"erssl.downstream.detection.{name}_backend")
    run_backend: Callable[[DetectionJob], DetectionOutcome] = module.run
    return run_backend


def require_resnet(backbone: nn.Module, name: str, backend: str) -> None:
    """Make sure that a detector can be built on the backbone.

    Args:
        backbone: From :func:`erssl.load_backbone`.
        name: What tables call it.
        backend: ``"torchvision"``, or ``"detectron2"``, which builds a ResNet by its name.

    Raises:
        DataError: If it is no torchvision ResNet with its usual stem.
    """
    options = getattr(backbone, "architecture", None)
    library, what = getattr(options, "library", None), getattr(options, "name", "another network")
    if library == "object":
        _require_resnet_module(backbone, name, backend)
        return
    if library != "torchvision" or getattr(options, "cifar_stem", False):
        stem = " with the stem for small images" if library == "torchvision" else ""
        raise DataError(
            f"checkpoint={name} is {what}{stem}, and the detectors are built on a torchvision "
            "ResNet with its 7x7 stem; name such a checkpoint, such as that of a resnet50."
        )


def _require_resnet_module(backbone: nn.Module, name: str, backend: str) -> None:
    """Make sure of the same of a module that a Python program gave."""
    if backend != "torchvision":
        raise DataError(
            f"checkpoint={name} is of a module that a Python program gave, and Detectron2 builds "
            "its ResNet by name; use backend=torchvision."
        )
    if not isinstance(backbone, ResNet) or backbone.conv1.kernel_size != _STEM:
        raise DataError(
            f"checkpoint={name} is of a module of {type(backbone).__name__}, and the detectors are "
            "built on a torchvision ResNet with its 7x7 stem; give such a module."
        )


def _job(
    settings: DetectSettings,
    read: Read,
    schedule: Schedule,
    train: CocoData | VocData,
    val: CocoData | VocData,
    folder: Path,
    say: Callable[[str], None],
    signals: SignalWatch,
    reports: _Reports,
) -> DetectionJob:
    min_sizes, max_size, test_size = settings.sizes
    statistics = {k: read.preprocessing.get(k) or default for k, default in _IMAGENET.items()}
    return DetectionJob(
        backbone=read.backbone,
        preprocessing=statistics,
        recipe=settings.chosen,
        schedule=schedule,
        train=train,
        val=val,
        folder=folder,
        seed=settings.seed,
        resume=settings.resume,
        eval_only=settings.eval_only,
        workers=_workers(settings),
        device=settings.place,
        devices=settings.devices,
        min_sizes=min_sizes,
        max_size=max_size,
        test_size=test_size,
        evaluator=settings.evaluator,
        rois_per_image=settings.rois_per_image,
        eval_period=settings.eval_period,
        checkpoint_period=settings.checkpoint_period,
        say=say,
        signals=signals,
        loggers=reports.open,
    )


class _Reports(AbstractContextManager["_Reports"]):
    """The loggers of a training, made when a backend knows from which iteration it goes on."""

    def __init__(self, settings: DetectSettings, folder: Path, config: Mapping[str, Any]) -> None:
        self.settings, self.folder, self.config = settings, folder, config
        self._ends = ExitStack()
        self._reports: list[Callable[[Mapping[str, float]], None]] = []
        if settings.backend == "detectron2" and not settings.eval_only:
            # its writers keep the curves; trackers learn the settings and what came out
            self.open(0 if settings.resume else None, files=False)

    def open(self, iteration: int | None, files: bool = True) -> list[Logger]:
        """Make the loggers of a training, and tell them its settings.

        Args:
            iteration: That it goes on from; ``None`` of a new one.
            files: Whether ``metrics.csv`` and TensorBoard's files are among them.

        Raises:
            LoggerError: If one does not start.
        """
        asked = self.settings.logger, self.settings.logger_options
        loggers = make_loggers(self.folder, iteration, *asked, files=files)
        about = {**self.config, "protocol": "detect"}
        self._reports.append(self._ends.enter_context(reporting(loggers, about)))
        return loggers

    def tell(self, metrics: Mapping[str, float]) -> None:
        """Tell trackers what came out."""
        for report in self._reports:
            report(metrics)

    def __exit__(self, *about: Any) -> bool | None:
        """End the loggers."""
        return self._ends.__exit__(*about)


def _workers(settings: DetectSettings) -> int:
    return loader_processes(settings.num_workers)


def _finish(
    settings: DetectSettings,
    job: DetectionJob,
    read: Read,
    outcome: DetectionOutcome,
    config: dict[str, Any],
    began: float,
    console: Console,
) -> Result:
    """Write results, images and report, and print them beside what is published."""
    from erssl.downstream.detection.images import draw_predictions

    notes = [job.schedule.sentence, *job.train.notes, *job.val.notes, *outcome.notes]
    counts = {"train": job.train.counts, "val": job.val.counts}
    known = {"counts": counts, "preprocessing": dict(read.preprocessing)}
    about = " ".join(["Average precision after the last iteration, in [0, 1].", *notes])
    draw_predictions(job.val, outcome.predictions, job.folder / PREDICTIONS, plots=settings.plots)
    for note in outcome.notes:
        job.say(note)
    return end_evaluation(
        job.folder,
        job.device,
        began,
        console,
        figures=[PREDICTIONS],
        note=about,
        protocol=f"{settings.chosen.data}_detection",
        dataset=job.train.name,
        method=read.name,
        metrics=outcome.metrics,
        seed=settings.seed,
        config={**config, **known, **outcome.facts, "notes": notes},
        published=_published(settings, read, job),
    )


def _published(settings: DetectSettings, read: Read, job: DetectionJob) -> Any:
    """Published numbers of the recipe, where it was followed on all of its data."""
    recipe: Recipe = settings.chosen
    followed = (recipe.min_sizes, recipe.max_size, recipe.test_size), _ROIS, None, None
    said = settings.sizes, settings.rois_per_image, settings.iterations, settings.learning_rate
    images = tuple(data.counts["images"] for data in (job.train, job.val))
    if settings.backend != "detectron2" or said != followed or images != _WHOLE[recipe.data]:
        return None
    if recipe.data == "coco" and recipe.head == "box":  # published numbers are of Mask R-CNN
        return None
    setting = {"backbone": getattr(read.backbone.architecture, "name", None)}
    if recipe.data == "voc":
        return published("voc_detection", "voc07+12", iterations=recipe.iterations, **setting)
    return published("coco_detection", "coco", head=recipe.neck, schedule=recipe.label, **setting)
