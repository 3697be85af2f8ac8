"""How long a pretraining takes on this machine, from a few of its steps on random images."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import cache
from typing import Any

import torch

from erssl.data import DataOptions, default_options
from erssl.data.imbalance import long_tailed
from erssl.methods import MultiViewMethod
from erssl.protocols.build import build_method
from erssl.protocols.evaluation import best_device
from erssl.settings.pretrain_options import PretrainSettings

_STEPS = 2  # after one that is not counted
_CLASSES = 10
_UNCHECKED = {"verify": False, "on_error": "raise"}  # of image files, which are only counted


def seconds_of_run(settings: PretrainSettings, known: dict[str, float]) -> float:
    """Estimate the seconds of a run's steps, without loading images and evaluation.

    Args:
        settings: The run.
        known: Seconds a step of each kind of run that was measured before; filled here.
    """
    data = settings.data
    kind = {
        "method": settings.method,
        "backbone": asdict(settings.backbone),
        "batch": settings.batch_size,
        "size": data.image_size,
        "channels": data.channels,
        "views": asdict(data.views),
        "precision": settings.trainer.get("precision"),
        "channels_last": settings.channels_last,
    }
    text = json.dumps(_without_fractions(kind), sort_keys=True, default=str)
    if text not in known:
        known[text] = _seconds_of_step(settings)
    steps = max(1, count_images(data) // settings.batch_size)
    return known[text] * steps * settings.epochs


def _without_fractions(settings: Any) -> Any:
    """Settings without those that are fractions: weights, rates and temperatures cost no time."""
    if isinstance(settings, dict):
        return {
            key: _without_fractions(value)
            for key, value in settings.items()
            if not isinstance(value, float)
        }
    return settings


def count_images(data: DataOptions) -> int:
    """Number of training images, counted once for all ways to read the same ones."""
    own = {key: getattr(data, key) for key in (*data.own_options(), "imbalance")}
    unchecked = {key: value for key, value in _UNCHECKED.items() if key in own}
    return _counted(default_options(data.name, **(own | unchecked)))


@cache
def _counted(data: DataOptions) -> int:
    return len(long_tailed(data.load(), data.imbalance, seed=0).train)


def _seconds_of_step(settings: PretrainSettings) -> float:
    """Mean over the parts of the training, whose views have sizes of their own."""
    method = build_method(settings, _CLASSES, settings.batch_size).to(best_device()).train()
    parts = settings.data.views.parts()
    sides = Counter(tuple(part.sides(settings.data.image_size)) for part in parts)
    return sum(n * _seconds_at(each, method, settings) for each, n in sides.items()) / len(parts)


def _seconds_at(sizes: Sequence[int], method: MultiViewMethod, settings: PretrainSettings) -> float:
    device = best_device()
    shape = (settings.batch_size, settings.data.channels)
    images = [torch.randn(*shape, size, size, device=device) for size in sizes]
    if settings.channels_last:
        images = [each.to(memory_format=torch.channels_last) for each in images]
    half = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
    dtype = half.get(str(settings.trainer.get("precision")))
    precision = torch.autocast(device.type, dtype) if dtype else nullcontext()
    began = 0.0
    for step in range(1 + _STEPS):
        if step == 1:
            began = _now(device)
        with precision:
            loss = method.multi_view_step(images).loss
        loss.backward()
        method.zero_grad()
    return (_now(device) - began) / _STEPS


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
