"""Convolutions over maps of a few pixels, trained in bfloat16 on a CPU in less time.

oneDNN computes the gradient of a convolution's weights slowly where its output has few pixels; here
it is a product of matrices. The taps of a kernel that meet nothing but padding, eight of nine on a
map of one pixel, are left out: a pass over such a map with 256 channels takes a third of the time
(``python -m benchmarks.small_maps``). Gradients that oneDNN leaves unwritten in bfloat16
(`erssl.models.half_precision`) are right so.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEW, _FEW_STRIDED = 8, 16  # pixels of the output up to which the product is quicker


def quicken_small_maps(network: nn.Module) -> None:
    """Let the convolutions of a network compute their gradients so on the CPU, wherever it pays.

    Values and gradients are those of `torch.nn.Conv2d` up to rounding; parameters and their names
    stay. Convolutions with groups, dilation, a bias or another padding than zeros stay as they are.

    ``erssl pretrain`` does it by itself where it trains on a CPU in bfloat16 (float32 gains
    nothing), unless the network is compiled.

    Args:
        network: Whose convolutions are changed in place; a copy of it trains weights of its own.

    Example:
        >>> net = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        >>> quicken_small_maps(net)
        >>> net(torch.zeros(2, 8, 1, 1)).shape
        torch.Size([2, 8, 1, 1])
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and _suits(module):
            module._conv_forward = partial(_forward, module)  # type: ignore[method-assign]


def as_torch_computes(network: nn.Module) -> None:
    """Take back what `quicken_small_maps` did."""
    for module in network.modules():
        own = vars(module).get("_conv_forward")
        if isinstance(own, partial) and own.func is _forward:
            del module._conv_forward


def _suits(conv: nn.Conv2d) -> bool:
    plain = conv.groups == 1 and conv.bias is None and conv.padding_mode == "zeros"
    square = all(
        isinstance(value, tuple) and value[0] == value[1]
        for value in (conv.kernel_size, conv.stride, conv.padding)
    )
    return plain and square and conv.dilation == (1, 1) and conv.kernel_size[0] > 1


def _forward(conv: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """In place of ``torch.nn.Conv2d._conv_forward``; images (N, C, H, W)."""
    stride, padding, kernel = conv.stride[0], int(conv.padding[0]), conv.kernel_size[0]
    pixels = [(side + 2 * padding - kernel) // stride + 1 for side in images.shape[-2:]]
    few = _FEW if stride == 1 else _FEW_STRIDED
    plain = bias is not None or images.device.type != "cpu" or images.dim() != 4
    if plain or pixels[0] * pixels[1] > few:  # a bias comes in where layers were fused
        return F.conv2d(images, weight, bias, stride, padding)
    if torch.is_autocast_enabled("cpu"):
        half = torch.get_autocast_dtype("cpu")
        images, weight = images.to(half), weight.to(half)
    if images.shape[-1] == images.shape[-2]:
        first, last = _span(images.shape[-1], pixels[0], kernel, stride, padding)
        weight, padding = weight[:, :, first:last, first:last], padding - first
    result: Tensor = _ByColumns.apply(images, weight, stride, padding)
    return result


def met_taps(side: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> list[int]:
    """Taps of a kernel, along a side, that meet pixels somewhere and not padding alone."""
    starts = range(-padding, side + padding - dilation * (kernel - 1), stride)
    return [
        tap for tap in range(kernel) if any(0 <= start + dilation * tap < side for start in starts)
    ]


def _span(side: int, pixels: int, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """First tap that meets pixels, and the one after the last.

    All of them where a convolution with those alone would give another number of pixels.
    """
    met = met_taps(side, kernel, stride, padding) or [0, kernel - 1]
    first, last = met[0], met[-1] + 1
    left = side + 2 * (padding - first) - (last - first)
    if first > padding or left < 0 or left // stride + 1 != pixels:
        return 0, kernel
    return first, last


class _ByColumns(torch.autograd.Function):
    """A convolution whose weights' gradient is a product of matrices."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.shape = (stride, padding)
        return F.conv2d(images, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        images, weight = ctx.saved_tensors
        stride, padding = ctx.shape
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_images = torch.ops.aten.convolution_backward(
                gradient, images, weight, None, [stride] * 2, [padding] * 2, [1, 1], False,
                [0, 0], 1, [True, False, False],
            )[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            columns = _columns(images, weight.shape[-1], stride, padding, gradient.shape[-2:])
            rows = gradient.movedim(1, -1).reshape(-1, gradient.shape[1])
            channels, taps = images.shape[1], weight.shape[-2:]
            of_weight = (rows.t() @ columns).view(-1, *taps, channels).movedim(-1, 1)
        return of_images, of_weight, None, None


def _columns(images: Tensor, kernel: int, stride: int, padding: int, pixels: torch.Size) -> Tensor:
    """What a kernel meets at each output pixel: (N * pixels, kernel * kernel * C).

    ``F.unfold`` copies channels-last images to channels-first before, and takes longer.
    """
    padded = F.pad(images.movedim(1, -1), (0, 0, *[padding] * 4))
    windows = padded.unfold(1, kernel, stride).unfold(2, kernel, stride)  # N, h, w, C, k, k
    windows = windows[:, : pixels[0], : pixels[1]]
    return windows.movedim(3, -1).reshape(-1, kernel * kernel * images.shape[1])
