"""What a pretraining run is about to do, said before it does it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightly.transforms.utils import IMAGENET_NORMALIZE
from pytorch_lightning import Trainer
from torch import nn

from erssl.data import DataOptions, Datasets, SSLDataModule
from erssl.data.bands import RGB
from erssl.data.encoded import EncodedImages
from erssl.data.folders import ImageFiles
from erssl.data.images import reading
from erssl.data.orientation import upright_size
from erssl.errors import DataError, counted, printable
from erssl.models.architectures import architecture_label
from erssl.protocols.start import method_of_start
from erssl.run.checkpoint_files import Resumed
from erssl.settings.pretrain_options import PretrainSettings
from erssl.settings.start import FROM_WEIGHTS

_SAMPLE = 200  # files whose headers are read; a millisecond each at most


def header_lines(
    settings: PretrainSettings,
    data: SSLDataModule,
    method: nn.Module,
    trainer: Trainer,
    path: Path,
    precision: str = "",
    sources: Mapping[str, str] | None = None,
    goes_on: Resumed | None = None,
) -> list[str]:
    """Say what is trained on what, where, and in how many steps.

    Args:
        settings: The run.
        data: Its images.
        method: The network and its loss.
        trainer: One with the run's devices.
        path: The run directory.
        precision: What is to be said of the precision beside its name.
        sources: Where the values of the settings come from, by dotted key.
        goes_on: The checkpoint that a resumed run goes on from.

    Returns:
        One line for each fact, without line breaks.
    """
    datasets = data.datasets
    backbone: Any = method.backbone
    sources = sources or {}
    lines = [
        _method(settings, sources),
        *image_lines(datasets),
        *_unmeasured(settings, data),
        *_preprocessing(settings, sources),
        f"Device: {_device(trainer)}",
        f"Precision: {_precision(settings)}{f' ({precision})' if precision else ''}",
        f"Pipeline: {settings.data.pipeline} ({settings.data.workers} loader processes)",
        f"Parameters: {_trained(method):,} trained, {_trained(backbone):,} of them in the backbone "
        f"{architecture_label(settings.backbone)}",
        f"Steps: {_steps(settings, len(datasets.train))}",
        f"Run directory: {path}",
    ]
    if goes_on is not None:
        steps = _epoch_steps(settings, len(datasets.train)) * settings.epochs
        file = goes_on.path.relative_to(path)
        lines.append(f"Goes on from step {goes_on.step:,} of {steps:,} ({file}).")
    return [printable(line) for line in lines]


def image_lines(datasets: Datasets) -> list[str]:
    """Say which images there are, and what was left out by reason: one line for each fact."""
    lines = [f"Training images: {len(datasets.train):,}{_sizes(datasets.train)}"]
    if (known := datasets.labelled_train) is not None:
        lines.append(f"Labelled images to evaluate with: {len(known):,}{_sizes(known)}")
    if datasets.val is not None:
        lines.append(f"Validation images: {len(datasets.val):,}{_sizes(datasets.val)}")
    classes = f"{datasets.num_classes:,}" if datasets.labelled else "none (images without labels)"
    lines.append(f"Classes: {classes}")
    lines += [
        f"Left out of {split}: {_reasons(left_out)}"
        for split, left_out in datasets.left_out.items()
        if left_out.total()
    ]
    lines += [
        f"Several pages or frames in {split}: {counted(count, 'image')}, of which the first is read"
        for split, count in datasets.several_pages.items()
        if count
    ]
    lines += [
        f"More than 3 channels in {split}: {counted(count, 'TIFF image')}, of which the first "
        "three are read; data.channels=<their number> takes all"
        for split, count in datasets.further_channels.items()
        if count
    ]
    return lines


def _method(settings: PretrainSettings, sources: Mapping[str, str]) -> str:
    """The method, whether anybody chose it, and what another run that it starts from had."""
    name = settings.method["name"]
    remarks = ["the default"] if sources.get("method.name") == "default" else []
    if (other := method_of_start(settings)) not in (None, name):
        remarks.append(f"the checkpoint is of {other}")
    told = f" ({'; '.join(remarks)})" if remarks else ""
    return f"Method: {name}{told}"


def _unmeasured(settings: PretrainSettings, data: SSLDataModule) -> list[str]:
    """Say before the training that no accuracy will be measured, where labels would allow it."""
    datasets = data.datasets
    if datasets.val is not None or not datasets.labelled or datasets.num_classes < 2:
        return []
    fraction = "val_fraction" in settings.data.own_options()
    hold_out = "; hold some out with data.val_fraction=0.1" if fraction else ""
    return [f"Validation images: none, so no accuracy will be measured{hold_out}"]


def _preprocessing(settings: PretrainSettings, sources: Mapping[str, str]) -> list[str]:
    """The size that images are trained at, how they are normalised, and by whose values."""
    data = settings.data
    mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (data.mean, data.std))
    size = f"{data.image_size} x {data.image_size} pixels"
    sides = [part.sides(data.image_size)[0] for part in data.views.by_epoch(settings.epochs)]
    stages = [(f"{side} x {side} pixels", len(list(those))) for side, those in groupby(sides)]
    if len(stages) > 1:
        each = (f"{trained} for {counted(count, 'epoch')}" for trained, count in stages)
        size = f"{', then '.join(each)}, and evaluated at {size}"
    elif stages and stages[0][0] != size:
        size = f"{stages[0][0]} and evaluated at {size}"
    lines = [f"Trained at {size}, mean {mean}, std {std} ({_whose(data, sources)})"]
    return lines if data.channels == RGB else [*lines, f"Channels: {data.channels}"]


def _whose(data: DataOptions, sources: Mapping[str, str]) -> str:
    told = {sources.get(f"data.{key}", "default") for key in ("mean", "std")}
    if "override" in told:
        return "as given"
    if any(source.startswith("measured") for source in told):
        return "measured"
    if FROM_WEIGHTS in told:
        return "of the checkpoint"
    imagenet = tuple(IMAGENET_NORMALIZE["mean"]), tuple(IMAGENET_NORMALIZE["std"])
    if (data.mean, data.std) == imagenet:
        return "ImageNet's"
    experiments = (source for source in told if source.startswith("experiment "))
    return f"those of {next(experiments, f'data {data.name}').replace(' ', '=')}"


def _reasons(left_out: Counter[str]) -> str:
    each = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{reason}: {count:,}" for reason, count in each if count)
    return f"{left_out.total():,} ({listed})"


def _sizes(images: Any) -> str:
    """Widths and heights: of an array, or of an even sample of files by their headers."""
    for held in ("pixels", "data"):  # ours, torchvision's
        shape: tuple[int, ...] = getattr(getattr(images, held, None), "shape", ())
        if len(shape) == 4:
            return f" of {shape[2]} x {shape[1]} pixels"
    if not isinstance(images, ImageFiles | EncodedImages):
        return ""
    count = min(_SAMPLE, len(images))
    sizes = []
    for place in np.linspace(0, len(images) - 1, count).round().astype(int).tolist():
        with suppress(DataError):  # said when it is decoded
            sizes.append(_size(images, place))
    if not sizes:
        return ""
    spans = [_span([size[side] for size in sizes]) for side in (0, 1)]
    return f" of {spans[0]} x {spans[1]} pixels (headers of {len(sizes):,})"


def _size(images: ImageFiles | EncodedImages, index: int) -> tuple[int, int]:
    if isinstance(images, EncodedImages):
        return images.size_of(index)
    with reading(images.samples[index][0]) as image:
        return upright_size(image) if images.upright else image.size


def _span(values: list[int]) -> str:
    least, most = min(values), max(values)
    return str(least) if least == most else f"{least} to {most}"


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{trainer.world_size} x {name}" if trainer.world_size > 1 else name


def _precision(settings: PretrainSettings) -> str:
    layout = ", channels-last" if settings.channels_last else ""
    return f"{settings.trainer.get('precision') or '32-true'}{layout}"


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _batches(settings: PretrainSettings, images: int) -> int:
    """Batches of an epoch."""
    batches = images // settings.batch_size
    limit = settings.trainer.get("limit_train_batches")
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return batches


def _epoch_steps(settings: PretrainSettings, images: int) -> int:
    """Optimiser steps of an epoch."""
    accumulated = settings.trainer.get("accumulate_grad_batches") or 1
    return math.ceil(_batches(settings, images) / accumulated)


def _steps(settings: PretrainSettings, images: int) -> str:
    """Steps of an epoch, and the images for which no full batch is left."""
    left = images - _batches(settings, images) * settings.batch_size
    return (
        f"{_epoch_steps(settings, images):,} an epoch, {counted(settings.epochs, 'epoch')} in "
        f"all; batches of {settings.batch_size:,}, {counted(left, 'image')} left out of each epoch"
    )
