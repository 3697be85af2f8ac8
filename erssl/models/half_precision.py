"""Whether a backbone trains in bfloat16 as it does in float32: a few passes on random images.

oneDNN's bfloat16 convolutions leave parts of a weight's gradient unwritten where a convolution
strides over an image narrower than its stride, such as a 3 x 3 kernel of stride 2 on a single
pixel: what lay in memory before is taken for it, NaN or any number (torch 2.14,
``findings/onednn-bfloat16-strided-weight-gradient.sh``). The last stage of a ResNet on images of
16 pixels has such a convolution.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from erssl.models.small_maps import met_taps

_LEAST_IMAGES, _PIXELS = 8, 8 * 224**2  # of a pass; a ResNet-50 takes seconds for them
_TRIES, _BUFFERS = 2, 8  # of a convolution, on memory that was filled with NaN in this many pieces
_TOLERANCE = 0.05  # of a weight's gradient in bfloat16, which rounds to 0.004


class Agreement(NamedTuple):
    """What bfloat16 does to a training pass of a backbone.

    Attributes:
        time_ratio: Seconds of a pass forward and backward, by those in float32.
        cosine: Between all gradients in bfloat16 and in float32; NaN where one is not finite.
        faulty: Names of the convolutions whose gradients come out wrong.
    """

    time_ratio: float
    cosine: float
    faulty: list[str]


def compare_precisions(
    backbone: nn.Module, sizes: Sequence[int], channels: int, channels_last: bool, batch: int
) -> Agreement:
    """Train a copy of a backbone for single passes in both precisions, on the CPU.

    Args:
        backbone: Gives features (N, d) of images; it stays as it is, and so do random numbers.
        sizes: Sides of the views in pixels.
        channels: Channels of an image.
        channels_last: Whether images and weights lie channels-last.
        batch: Images of a training step, of which no more are taken than a few seconds allow.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = copy.deepcopy(backbone).train()
        images = _images(sizes, channels, batch)
        if channels_last:
            own.to(memory_format=torch.channels_last)
            images = [x.contiguous(memory_format=torch.channels_last) for x in images]
        seconds = {True: math.inf, False: math.inf}
        gradients: dict[bool, Tensor] = {}
        for half in (False, True, False, True):  # the first passes build what later ones use
            began = time.perf_counter()
            gradients[half] = _gradients(own, images, half)
            seconds[half] = min(seconds[half], time.perf_counter() - began)
        faulty = faulty_convolutions(own, images)
    cosine = cosine_similarity(gradients[True].double(), gradients[False].double(), dim=0)
    return Agreement(seconds[True] / seconds[False], float(cosine), faulty)


def faulty_in_half(backbone: nn.Module, sizes: Sequence[int], channels: int) -> list[str]:
    """Names of the convolutions of a backbone whose gradients in bfloat16 are wrong on this CPU.

    Args:
        backbone: Gives features (N, d) of images; it stays as it is, and so do random numbers.
        sizes: Sides of the views in pixels.
        channels: Channels of an image.
    """
    with torch.random.fork_rng(devices=[]):
        return faulty_convolutions(
            copy.deepcopy(backbone).train(), _images(sizes, channels, _LEAST_IMAGES)
        )


def _images(sizes: Sequence[int], channels: int, batch: int) -> list[Tensor]:
    counts = {side: max(_LEAST_IMAGES, min(batch, _PIXELS // side**2)) for side in sizes}
    return [torch.randn(count, channels, side, side) for side, count in counts.items()]


def _gradients(backbone: nn.Module, images: Sequence[Tensor], half: bool) -> Tensor:
    """All gradients of one random projection of the features, one after another."""
    backbone.zero_grad()
    for x in images:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            features = backbone(x).flatten(1).float()
        (features * _alike(features)).sum().backward()
    return torch.cat(
        [p.grad.float().flatten() for p in backbone.parameters() if p.grad is not None]
    )


def _alike(x: Tensor) -> Tensor:
    """Random numbers of a tensor's shape, the same in every pass."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


class _Seen(NamedTuple):
    """A convolution and an input of its."""

    name: str
    module: nn.Conv2d
    shape: torch.Size
    channels_last: bool


def faulty_convolutions(backbone: nn.Module, images: Sequence[Tensor]) -> list[str]:
    """Find the convolutions whose weight's gradient is wrong in bfloat16 on this CPU.

    Those of which a part of the kernel meets nothing but padding are tried by themselves, on
    memory that was filled with NaN.

    Args:
        backbone: The network, whose state one pass in train mode moves.
        images: A batch of each size.

    Returns:
        Their names in the backbone.
    """
    seen: dict[Any, _Seen] = {}

    def look(name: str, module: nn.Conv2d, inputs: tuple[Tensor, ...], named: Any) -> None:
        x = inputs[0] if inputs else named["input"]
        last = x.is_contiguous(memory_format=torch.channels_last)
        if _idle_taps(module, x.shape[-2:]):
            seen[name, x.shape] = _Seen(name, module, x.shape, last)

    hooks = [
        module.register_forward_pre_hook(partial(look, name), with_kwargs=True)
        for name, module in backbone.named_modules()
        if type(module) is nn.Conv2d and max(module.kernel_size) > 1
    ]
    try:
        with torch.no_grad():
            for x in images:
                backbone(x)
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(each.name for each in seen.values() if _is_faulty(each)))


def _idle_taps(convolution: nn.Conv2d, sides: Sequence[int]) -> bool:
    """Whether a row or column of the kernel never meets the image."""
    geometry = zip(
        sides,
        convolution.kernel_size,
        convolution.stride,
        _padding(convolution),
        convolution.dilation,
        strict=True,
    )
    return any(len(met_taps(*each)) < each[1] for each in geometry)


def _padding(convolution: nn.Conv2d) -> tuple[int, int]:
    if isinstance(convolution.padding, str):  # "same" or "valid"
        whole = convolution.padding == "same"
        rows, columns = (
            d * (k - 1) // 2 if whole else 0
            for d, k in zip(convolution.dilation, convolution.kernel_size, strict=True)
        )
        return rows, columns
    rows, columns = convolution.padding
    return int(rows), int(columns)


def _is_faulty(seen: _Seen) -> bool:
    exact = _weight_gradient(seen, torch.float32)
    tries = (_weight_gradient(seen, torch.bfloat16) for _ in range(_TRIES))
    return any(not (tried - exact).norm() <= _TOLERANCE * exact.norm() for tried in tries)


def _weight_gradient(seen: _Seen, dtype: torch.dtype) -> Tensor:
    """The weight's gradient, in float32, of one random projection of a convolution's output."""
    layout = torch.channels_last if seen.channels_last else torch.contiguous_format
    module = copy.deepcopy(seen.module).to(dtype)
    x = _alike(torch.empty(seen.shape)).to(dtype).contiguous(memory_format=layout)
    y = module(x)
    towards = _alike(y).to(dtype)
    spoilt = [
        torch.full_like(module.weight, math.nan, dtype=kind)
        for kind in (torch.bfloat16, torch.float32)
        for _ in range(_BUFFERS)
    ]
    del spoilt  # what is freed last is handed out first
    y.backward(towards)
    gradient = module.weight.grad
    assert gradient is not None
    return gradient.float()
