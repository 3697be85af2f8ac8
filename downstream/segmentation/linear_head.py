"""Training a linear layer on maps of patch features, and reading its confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from erssl.downstream.segmentation.batches import (
    Inputs,
    TrainingDraws,
    WholeImages,
    keep_sizes,
)
from erssl.downstream.segmentation.data import SegmentationData
from erssl.downstream.segmentation.masks import IGNORED
from erssl.downstream.segmentation.metrics import count_pixels
from erssl.errors import RunError
from erssl.files import replacing
from erssl.run.signals import SignalWatch

CHECKPOINT = "last.ckpt"
_STD = 0.01  # of the layer's weights at first, as in MMSegmentation's heads
_LOGGED = 50  # iterations of which the mean loss is kept


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """How the layer is trained.

    Attributes:
        batch_norm: Whether features are normalised by their batch before the layer.
        batch_size: Images of a step.
        iterations: Steps.
        learning_rate: Of AdamW, falling linearly to 0.
        weight_decay: Of AdamW.
        warmup_fraction: Part of the steps over which the rate rises from 0.
        flip: Whether half of the training images are mirrored.
        checkpoint_period: Steps from one checkpoint to the next.
    """

    batch_norm: bool
    batch_size: int
    iterations: int
    learning_rate: float
    weight_decay: float
    warmup_fraction: float
    flip: bool
    checkpoint_period: int

    def rate(self, iteration: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = max(1.0, self.warmup_fraction * self.iterations)
        return (
            self.learning_rate
            * min(1.0, (iteration + 1) / warm)
            * (1 - iteration / self.iterations)
        )


def build_head(width: int, classes: int, batch_norm: bool, seed: int) -> nn.Sequential:
    """Make a batch norm (or nothing) and a 1x1 convolution.

    Args:
        width: Of the features.
        classes: Number of classes.
        batch_norm: Whether to normalise.
        seed: Of the weights.
    """
    layer = nn.Conv2d(width, classes, kernel_size=1)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(layer.weight, std=_STD, generator=generator)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.BatchNorm2d(width) if batch_norm else nn.Identity(), layer)


def pixel_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of the pixels that have a class; 0 where none has.

    Args:
        logits: (N, C, h, w), which are resized to the masks bilinearly.
        masks: Class numbers (N, H, W); 255 is left out.
    """
    resized = F.interpolate(logits, size=masks.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(resized, masks.long(), ignore_index=IGNORED, reduction="sum")
    return total / (masks != IGNORED).sum().clamp_min(1)


def train_head(
    maps: nn.Module,
    head: nn.Sequential,
    data: SegmentationData,
    inputs: Inputs,
    options: HeadOptions,
    *,
    seed: int,
    device: torch.device,
    workers: int,
    folder: Path,
    resume: bool,
    signals: SignalWatch | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[int, float]]:
    """Train a head, on the device; the backbone stays as it is.

    Args:
        maps: Gives features (N, D, h, w), frozen.
        head: Is trained in place, and left in eval mode.
        data: Training images.
        inputs: Makes tensors of images.
        options: How.
        seed: Of the order and the mirroring.
        device: Where.
        workers: Loader processes.
        folder: Where checkpoints go.
        resume: Whether to go on with the checkpoint in the folder, where there is one.
        signals: Tells when the training shall stop, which it does after a checkpoint.
        progress: Is told of each step.

    Returns:
        Steps done, and the mean loss of the steps since the row before.

    Raises:
        RunError: If the loss is not finite, or a checkpoint cannot be read.
        Stopped: After the checkpoint of the step in which a signal was heard.
    """
    maps.to(device).eval()
    head.to(device).train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1.0, weight_decay=options.weight_decay)
    kept = folder / CHECKPOINT
    start, since, losses = 0, 0.0, list[tuple[int, float]]()
    if resume and kept.is_file():
        start, since, losses = _restore(kept, head, optimizer)
    length = options.iterations * options.batch_size
    draws = TrainingDraws(data, inputs, length, seed, options.flip)
    rest = Subset(draws, range(start * options.batch_size, length))
    loader = DataLoader(rest, options.batch_size, num_workers=workers, drop_last=True)
    if signals is not None:
        signals.training_begins()
    for iteration, (images, masks) in enumerate(loader, start=start):
        for group in optimizer.param_groups:
            group["lr"] = options.rate(iteration)
        with torch.no_grad():
            features = maps(images.to(device))
        loss = pixel_loss(head(features), masks.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        since += float(loss.detach())
        done = iteration + 1
        progress(done, options.iterations)
        if done % _LOGGED == 0 or done == options.iterations:
            last = losses[-1][0] if losses else 0
            losses.append((done, since / (done - last)))
            since = 0.0
            if not math.isfinite(losses[-1][1]):
                raise RunError(
                    f"The loss is {losses[-1][1]} after {done} iterations; set learning_rate to "
                    f"less than {options.learning_rate:g}."
                )
        stops = signals is not None and signals.heard_here
        if stops or done % options.checkpoint_period == 0 or done == options.iterations:
            state = {"head": head.state_dict(), "optimizer": optimizer.state_dict()}
            with replacing(kept) as partial:
                torch.save({**state, "iteration": done, "since": since, "losses": losses}, partial)
        if signals is not None and stops:
            signals.stop(done)
    if signals is not None:
        signals.training_ends()
    head.eval()
    return losses


@torch.no_grad()
def confusion_of(
    maps: nn.Module,
    head: nn.Module,
    data: SegmentationData,
    inputs: Inputs,
    *,
    batch_size: int,
    device: torch.device,
    workers: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    see: Callable[[int, Tensor], None] = lambda number, predicted: None,
) -> Tensor:
    """Count which class is taken for which over all pixels of a split, at the masks' own size.

    Args:
        maps: Gives features (N, D, h, w).
        head: Gives logits (N, C, h, w) of them.
        data: Images to evaluate on.
        inputs: Makes tensors of images.
        batch_size: Squares that go through the backbone together.
        device: Where.
        workers: Loader processes.
        progress: Is told of each image.
        see: Is given the number of each image and its predicted classes (H, W).

    Returns:
        Counts (C, C) as int64 on the CPU, rows are the truth.
    """
    maps.to(device).eval()
    head.to(device).eval()
    classes = len(data.class_names)
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    images_of = WholeImages(data, inputs)
    loader = DataLoader(images_of, batch_size, num_workers=workers, collate_fn=keep_sizes)
    done = 0

    def predict(squares: Tensor) -> Tensor:
        return torch.cat([head(maps(part)) for part in squares.split(batch_size)])

    for images, masks in loader:
        there = [[scale.to(device) for scale in image] for image in images]
        sizes = [(int(mask.shape[0]), int(mask.shape[1])) for mask in masks]
        scores = inputs.scores(predict, there, sizes)
        for classes_of, mask in zip(scores, masks, strict=True):
            predicted = classes_of.argmax(dim=0).cpu()
            matrix += count_pixels(predicted, mask, classes)
            see(done, predicted)
            done += 1
            progress(done, len(images_of))
    return matrix


def _restore(
    file: Path, head: nn.Module, optimizer: Any
) -> tuple[int, float, list[tuple[int, float]]]:
    """Steps done, the sum of the losses that are in no row yet, and the rows."""
    try:
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        head.load_state_dict(content["head"])
        optimizer.load_state_dict(content["optimizer"])
        losses = [(int(done), float(loss)) for done, loss in content["losses"]]
        return int(content["iteration"]), float(content["since"]), losses
    except Exception as error:  # damaged by hand or by a disk, in any way
        raise RunError(
            f"{file} is no checkpoint that can be read; delete it, and resume=true trains its seed "
            "again."
        ) from error
