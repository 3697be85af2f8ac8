"""``erssl segment``: linear segmentation from the patch features of a frozen backbone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from erssl.data.options import loader_processes
from erssl.downstream.segmentation.batches import Inputs, SquareImages
from erssl.downstream.segmentation.data import (
    VOC_CLASSES,
    SegmentationData,
    read_coco_masks,
    read_voc_masks,
)
from erssl.downstream.segmentation.images import draw_maps, drawn_images
from erssl.downstream.segmentation.linear_head import (
    HeadOptions,
    build_head,
    confusion_of,
    train_head,
)
from erssl.downstream.segmentation.metrics import class_ious, segmentation_metrics
from erssl.downstream.segmentation.windows import Windows
from erssl.errors import ConfigError, RunError
from erssl.evaluation.fingerprints import weights_digest
from erssl.files import write_json, write_rows
from erssl.limits import check_images
from erssl.models.channels import RGB
from erssl.models.patch_maps import PatchMap
from erssl.paths import user_path
from erssl.protocols.backbone_evaluation import BackboneEvaluation
from erssl.protocols.classifier_training import SEED as SEED_FILE
from erssl.protocols.classifier_training import is_finished, naming_folder, seed_folder
from erssl.protocols.evaluation import best_device, progress_bar, summarize
from erssl.protocols.subject import Read, read_backbone, require_rgb
from erssl.protocols.trainer import quiet
from erssl.run.class_tables import write_classes
from erssl.run.console import say
from erssl.run.directory import PREDICTIONS
from erssl.run.faults import restarted
from erssl.run.result import Result
from erssl.run.signals import SignalWatch
from erssl.settings.segmentation import MAY_CHANGE, SegmentSettings, read_segment

_IMAGE_SIZE = 224  # of weights that do not say theirs
_IOU_TABLE, _LOSSES = "iou.csv", "loss.csv"


@dataclass(frozen=True)
class _Task:
    """What every seed has in common."""

    settings: SegmentSettings
    maps: PatchMap
    inputs: Inputs
    train: SegmentationData
    val: SegmentationData
    folder: Path
    device: torch.device
    workers: int
    console: Console
    signals: SignalWatch


def run(overrides: Sequence[str], console: Console) -> Result:
    """Evaluate a backbone by linear segmentation."""
    quiet()
    return segment(read_segment(restarted(overrides)), console)


def segment(settings: SegmentSettings, console: Console) -> Result:
    """Train a linear layer on patch features, once for each seed, and evaluate it by mIoU.

    Returns:
        The folder and its results.

    Raises:
        ErsslError: If it cannot be done.
    """
    read = read_backbone(settings, console)
    require_rgb(read.backbone, "segment")
    size = settings.image_size or int(read.preprocessing.get("image_size") or _IMAGE_SIZE)
    maps = PatchMap(read.backbone, size)
    check_images("image_size", size, RGB, settings.batch_size, "batch_size")
    _, height, width = maps.shape
    if settings.batch_norm and settings.batch_size * height * width < 2:
        raise ConfigError(
            f"batch_size={settings.batch_size} of images of {size} x {size} pixels gives one "
            "patch, of which batch_norm has no variance; raise one, or set batch_norm=false."
        )
    train, val = _data(settings)
    workers = loader_processes(settings.num_workers)
    digests = {
        "weights": weights_digest(read.backbone),
        "training_annotations": train.digest,
        "validation_annotations": val.digest,
    }
    counts = {"train": len(train.images), "val": len(val.images)}
    evaluation = BackboneEvaluation(
        "segment",
        settings,
        read,
        train.name,
        image_size=size,
        map=[height, width],
        images=counts,
        digests=digests,
    )

    notes = [*train.notes, *val.notes]

    def check() -> None:
        for data in (train, val) if settings.verify else ():
            notes.extend(data.check(workers))

    with evaluation.opened(goes_on=settings.resume, may_change=MAY_CHANGE, check=check):
        say(
            console,
            f"{counts['train']} training and {counts['val']} validation images of {train.name}, "
            f"{len(train.class_names)} classes; maps of {height} x {width} patches of images of "
            f"{size} x {size} pixels.",
        )
        for note in notes:
            say(console, note)
        evaluation.config["notes"] = notes
        inputs = _inputs(settings, size, read)
        folder = evaluation.path
        device = best_device()
        with naming_folder(folder) as signals:
            task = _Task(
                settings, maps, inputs, train, val, folder, device, workers, console, signals
            )  # fmt: skip
            matrices = [_seed(task, settings.seed + each) for each in range(settings.seeds)]
        return _finish(task, evaluation, matrices)


def _inputs(settings: SegmentSettings, size: int, read: Read) -> Inputs:
    if settings.inputs == "square":
        return SquareImages(size, read.preprocessing)
    if settings.stride and settings.stride > size:
        raise ConfigError(f"stride={settings.stride} leaves pixels between windows of {size}.")
    return Windows(
        size,
        read.preprocessing,
        settings.stride,
        settings.scale_range,
        settings.scales,
        settings.evaluate_mirrored,
    )


def _data(settings: SegmentSettings) -> list[SegmentationData]:
    root = user_path(str(settings.data_root))
    if settings.masks == "coco":
        from importlib.util import find_spec

        if find_spec("pycocotools") is None:
            raise ConfigError(
                "masks=coco needs pycocotools, which is not installed; run pip install "
                "'erssl[detection]'."
            )
        return read_coco_masks(root)
    names = settings.class_names or VOC_CLASSES
    return read_voc_masks(root, settings.year, (settings.train_list, settings.val_list), names)


def _seed(task: _Task, seed: int) -> Tensor:
    """Confusion matrix (C, C) of one seed, which is not trained again where it is finished."""
    settings = task.settings
    folder = seed_folder(task.folder, seed)
    if not (settings.resume and is_finished(folder)):
        options = HeadOptions(
            **{name: getattr(settings, name) for name in HeadOptions.__dataclass_fields__}
        )
        classes = len(task.train.class_names)
        head = build_head(task.maps.shape[0], classes, settings.batch_norm, seed)
        shared: dict[str, Any] = {"device": task.device, "workers": task.workers}
        seen = dict.fromkeys(drawn_images(len(task.val.images)), torch.empty(0))
        with progress_bar(task.console, f"training with seed {seed}") as update:
            losses = train_head(
                task.maps,
                head,
                task.train,
                task.inputs,
                options,
                seed=seed,
                folder=folder,
                resume=settings.resume,
                signals=task.signals,
                progress=update,
                **shared,
            )
        with progress_bar(task.console, f"evaluation of {len(task.val.images)} images") as update:
            matrix = confusion_of(
                task.maps,
                head,
                task.val,
                task.inputs,
                batch_size=settings.batch_size,
                progress=update,
                see=lambda number, predicted: _keep(seen, number, predicted),
                **shared,
            )
        if seed == settings.seed:
            draw_maps(task.val, seen, task.folder / PREDICTIONS, settings.plots_format or "png")
        write_rows(folder / _LOSSES, [("iteration", "loss"), *losses])
        metrics = segmentation_metrics(matrix)
        write_json(folder / SEED_FILE, {"metrics": metrics, "confusion": matrix.tolist()})
    return _read_seed(folder)


def _keep(seen: dict[int, Tensor], number: int, predicted: Tensor) -> None:
    if number in seen:
        seen[number] = predicted


def _read_seed(folder: Path) -> Tensor:
    try:
        content = json.loads((folder / SEED_FILE).read_text(encoding="utf-8"))
        return torch.tensor(content["confusion"], dtype=torch.int64)
    except Exception as error:  # damaged by hand or by a disk, in any way
        raise RunError(
            f"{folder} is not what a training leaves; delete that folder alone, and resume=true "
            "trains its seed again."
        ) from error


def _finish(task: _Task, evaluation: BackboneEvaluation, matrices: list[Tensor]) -> Result:
    """Write results, tables and report."""
    names, settings = task.val.class_names, task.settings
    ious = class_ious(matrices[0]).tolist()
    pixels = matrices[0].sum(dim=1).tolist()
    rows = zip(names, ious, pixels, strict=True)
    write_rows(task.folder / _IOU_TABLE, [("class", "iou", "pixels"), *rows])
    plots = settings.plots_format
    figures = write_classes(matrices[0], names, task.folder, plots) if plots else []
    about = (
        "Of the last iteration, in [0, 1]: miou is the mean over classes, background included, of "
        "the intersection over union in one confusion matrix of all validation pixels that have a "
        f"class; that of each class of the first seed is in {_IOU_TABLE}."
    )
    return evaluation.finish(
        summarize([segmentation_metrics(matrix) for matrix in matrices]),
        task.device,
        task.console,
        figures=[*figures, PREDICTIONS],
        note=" ".join([about, *evaluation.config["notes"]]),
    )
