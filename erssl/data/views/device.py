"""Views of many images at once, made on the device that holds them.

What lightly's transforms do to one PIL image, done to a batch: the same operations in the same
order, rounded to 8-bit levels where Pillow rounds. Nothing is read back by the host, no shape
depends on what was drawn, and a view has the same levels in whatever batch it is made. kornia makes
views on a device too, but crops without Pillow's antialiasing, takes one order of the jitter for a
batch, and draws from global generators.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from erssl.data.views.draws import JITTERS, ViewDraws, ViewSpec

# Bytes of intermediate results that are held at a time. On a CPU they had best stay in its caches;
# on a GPU few large kernels are quicker than many small ones.
_BYTES_ON_CPU, _BYTES_ELSEWHERE = 2**23, 2**31

_LEVELS = 2**15  # of a weight: 255 times that is a float32 to the bit, in any order of summation
_HUES = 256  # Pillow's hue is a byte, whose full turn is 255 levels and which wraps after 256
_LUMA = (19595 / 2**16, 38470 / 2**16, 7471 / 2**16)  # ITU-R 601-2, as Pillow rounds it
_CACHED = 2**18  # values of a batch that are normalised at once: 1 MiB


def make_views(
    images: Tensor, spec: ViewSpec, draws: ViewDraws, most_bytes: int | None = None
) -> Tensor:
    """Make one view of each image.

    Args:
        images: Images (N, H, W, 3) of 8 bit; grey ones have three channels alike.
        spec: The view; as many channels as it has means are given.
        draws: What was drawn for the N images, on their device.
        most_bytes: Bytes that intermediate results may take, about; ``None`` for 8 MiB on a CPU
            and 2 GiB elsewhere.

    Returns:
        Normalised views (N, C, size, size) of float32, on the images' device.
    """
    if most_bytes is None:
        most_bytes = _BYTES_ON_CPU if images.device.type == "cpu" else _BYTES_ELSEWHERE
    rows = max(1, most_bytes // _bytes_of_a_view(images.shape[1], images.shape[2], spec))
    with torch.no_grad(), _exact_products():
        made = [
            _views(images[start : start + rows], spec, draws.rows(start, start + rows))
            for start in range(0, len(images), rows)
        ]
    return made[0] if len(made) == 1 else torch.cat(made)


def _bytes_of_a_view(height: int, width: int, spec: ViewSpec) -> int:
    """About what is held at the worst moment: some copies of pixels and of matrices."""
    pixels = 3 * max(height * (width + spec.size), 3 * spec.size**2)
    matrices = 4 * spec.size * max(2 * height, 2 * width, spec.size if spec.blur_prob else 0)
    return 4 * (pixels + matrices)


def _views(images: Tensor, spec: ViewSpec, draws: ViewDraws) -> Tensor:
    x = _crops(images, spec, draws)
    if spec.degrees:
        x = rotate(x, draws.angle)
    if spec.jitter_prob:
        x = jitter(x, spec, draws)
    if spec.grey_prob:
        x = torch.where(_each(draws.grey), luma(x), x)
    if spec.blur_prob:
        x = blur(x, draws.sigma, spec.blur_sigmas[1])
    if spec.solarize_prob:
        x = torch.where(_each(draws.solarize) & (x >= 128), 255 - x, x)
    return normalize(x[:, : len(spec.mean)], spec)  # of grey images the channels are alike


def normalize(levels: Tensor, spec: ViewSpec) -> Tensor:
    """Make levels 0..255 (N, C, H, W) of any type a view's normalised float32."""
    # A channel at a time: a tensor of three numbers, brought to the device, has the host wait.
    # On the CPU a few at a time, which stay in its cache; a GPU has the fewer kernels.
    step = max(1, _CACHED // levels[0].numel()) if levels.device.type == "cpu" else len(levels)
    out = torch.empty(levels.shape, dtype=torch.float32, device=levels.device)
    for start in range(0, len(levels), step):
        some = out[start : start + step].copy_(levels[start : start + step])
        for c, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
            some[:, c].mul_(1 / (255 * std)).sub_(mean / std)
    return out


def _each(values: Tensor) -> Tensor:
    """A value for each image (N,), to go with pixels."""
    return values[:, None, None, None]


def _crops(images: Tensor, spec: ViewSpec, draws: ViewDraws) -> Tensor:
    """Crops of images (N, H, W, 3), resized and flipped, as levels (N, 3, size, size)."""
    n, height, width, _ = images.shape
    top, left, tall, wide = draws.crop.unbind(dim=1)
    weights = resampling(  # both at once: fewer, larger kernels
        spec,
        max(height, width),
        torch.cat([left, top]),
        torch.cat([wide, tall]),
        torch.cat([draws.flip, draws.vertical_flip]),
    )
    across, down = weights[:n, :, :width], weights[n:, :, :height]
    # With the channels between the axes both products are of one matrix an image.
    x = images.transpose(2, 3).to(torch.float32, memory_format=torch.contiguous_format)
    x = _to_levels(torch.bmm(x.view(n, height * 3, width), across.transpose(1, 2)))
    x = _to_levels(torch.bmm(down, x.view(n, height, 3 * spec.size)))
    return x.view(n, spec.size, 3, spec.size).transpose(1, 2)


def resampling(spec: ViewSpec, length: int, start: Tensor, extent: Tensor, flip: Tensor) -> Tensor:
    """Matrices by which Pillow resizes a crop along one axis.

    Pillow's filters, a = -0.5 for the bicubic one, are as wide as the pixels of the side that has
    larger ones: antialiased where the crop is made smaller.

    Args:
        spec: The view: its size and interpolation.
        length: Pixels of the image along the axis.
        start: First pixel of the crops (N,).
        extent: Pixels of the crops (N,).
        flip: Whether the result is mirrored (N,).

    Returns:
        Weights (N, size, length).
    """
    # In whole numbers as float32: half the memory of those that places are counted in.
    to = torch.arange(spec.size, device=start.device, dtype=torch.float32)[:, None]
    to = torch.where(flip[:, None, None], spec.size - 1 - to, to)
    at = torch.arange(length, device=start.device) - start[:, None, None].float()  # in the crop
    extent = extent[:, None, None].float()
    # Distance of the centres, in pixels of the larger kind; a quotient of whole numbers.
    distance = ((2 * at + 1) * spec.size - (2 * to + 1) * extent).abs_()
    t = distance.div_(2 * extent.clamp_min(spec.size))
    weights = (1 - t).clamp_min_(0)
    if spec.interpolation == "bicubic":  # the part from 0 to 2, and what is added from 0 to 1
        wide = (2 - t).clamp_min_(0)
        weights = (
            (wide - 1)
            .mul_(wide.square_())
            .mul_(0.5)
            .add_((1 - 2 * weights).mul_(weights.square_()))
        )
    weights = weights.mul_((at >= 0) & (at < extent))
    return _in_levels(weights.div_(weights.sum(dim=2, keepdim=True)))


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Turn levels (N, C, S, S) by degrees (N,), counter-clockwise; nearest pixel, else black."""
    n, channels, size, _ = x.shape
    radians = angle[:, None, None] * (math.pi / 180)
    cos, sin = radians.cos(), radians.sin()
    place = torch.arange(size, device=x.device) + (0.5 - size / 2)
    across, down = place[None, :], place[:, None]
    column = (cos * across - sin * down + size / 2).floor()
    row = (sin * across + cos * down + size / 2).floor()
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    source = row.clamp(0, size - 1) * size + column.clamp(0, size - 1)
    source = source.long().view(n, 1, size * size).expand(n, channels, size * size)
    return x.reshape(n, channels, size * size).gather(2, source).view_as(x) * inside[:, None]


def jitter(x: Tensor, spec: ViewSpec, draws: ViewDraws) -> Tensor:
    """Change brightness, contrast, saturation and hue of levels (N, 3, S, S) in each one's order.

    The first three are blends with something else, so that one round does whichever has its turn.
    The hue costs most and comes once for all: between the rounds that are left of it and those
    that are right of it in an image's order.
    """
    order = draws.order
    hue = order == JITTERS.index("hue")
    others = (order == JITTERS.index("contrast"), order == JITTERS.index("saturation"))
    factors = draws.factors.gather(1, order)
    active = draws.jitter[:, None] & ~hue
    if spec.jitter[JITTERS.index("hue")] == (0.0, 0.0):
        return _blends(x, range(4), torch.where(active, factors, 1.0), *others)
    turns = torch.arange(4, device=x.device)
    right = turns > (turns * hue).sum(dim=1, keepdim=True)
    x = _blends(x, range(3), torch.where(active & ~right, factors, 1.0), *others)
    levels = (draws.factors[:, JITTERS.index("hue")] * 255).trunc()  # torchvision's
    x = torch.where(_each(draws.jitter), shift_hue(x, levels), x)
    return _blends(x, range(1, 4), torch.where(active & right, factors, 1.0), *others)


def _blends(
    x: Tensor, turns: Iterable[int], factors: Tensor, contrast: Tensor, saturation: Tensor
) -> Tensor:
    """In each turn brightness, contrast or saturation; a factor of 1 leaves levels as they are."""
    for turn in turns:
        grey = luma(x)
        # Summed in levels, whose sum is a float32 to the bit up to 256 x 256 pixels.
        mean = (grey.sum(dim=(2, 3), keepdim=True) / grey[0].numel() + 0.5).floor_()
        flat = mean.mul_(_each(contrast[:, turn]))
        other = torch.where(_each(saturation[:, turn]), grey, flat)
        x = (x - other).mul_(_each(factors[:, turn])).add_(other).clamp_(0, 255).floor_()
    return x


def luma(x: Tensor) -> Tensor:
    """Pillow's grey levels (N, 1, S, S) of levels (N, 3, S, S)."""
    red, green, blue = (x[:, c : c + 1] for c in range(3))
    grey = (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
    return grey.add_(0.5).floor_()


def shift_hue(x: Tensor, levels: Tensor) -> Tensor:
    """Shift the hue of levels (N, 3, S, S) by whole levels (N,), through Pillow's 8-bit HSV."""
    red, green, blue = x.unbind(dim=1)
    # Of three channels: torch.aminmax over them takes ten times as long on a CPU.
    low = torch.minimum(torch.minimum(red, green), blue)
    high = torch.maximum(torch.maximum(red, green), blue)
    spread = high - low
    # Of the hexagon's side on which the largest channel lies: red's, green's or blue's.
    of_green = (blue - red).add_(spread, alpha=2)
    of_blue = (red - green).add_(spread, alpha=4)
    side = torch.where(high == green, of_green, of_blue)
    side = torch.where(high == red, green - blue, side).div_(spread.clamp_min(1) * 6)
    hue = _wrapped(side, 1).mul_(255).floor_()
    hue = _wrapped(hue.add_(levels[:, None, None]), _HUES).mul_(6 / 255)
    saturation = (spread / high.clamp_min(1)).mul_(255).floor_().div_(255)
    corners = torch.arange(5, 0, -2, device=x.device)[:, None, None]  # 5, 3, 1: red, green, blue
    k = _wrapped(hue[:, None] + corners, 6)
    lost = torch.minimum(k, 4 - k).clamp_(0, 1).mul_((high * saturation)[:, None])
    return (high + 0.5)[:, None].sub(lost).floor_()


def _wrapped(x: Tensor, turn: int) -> Tensor:
    """The remainder of less than two turns, exact, and four times as quick as ``remainder_``."""
    return x.sub_((x / turn).floor_(), alpha=turn)


def blur(x: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur levels (N, C, S, S) as Pillow does: three box filters of real width along each axis.

    Args:
        x: The levels.
        sigma: Standard deviations (N,) in pixels; 0 leaves an image as it is.
        largest: The largest possible deviation in pixels.

    Returns:
        Blurred levels.
    """
    n, channels, size, _ = x.shape
    reach = math.floor((math.sqrt(4 * largest**2 + 1) - 1) / 2) + 1  # of the largest radius, up
    box = _box_filter(sigma, size, reach)
    smooth = _in_levels(torch.bmm(box, torch.bmm(box, box)))
    x = x.transpose(1, 2).reshape(n, size * channels, size)
    x = _to_levels(torch.bmm(x, smooth.transpose(1, 2)))
    x = _to_levels(torch.bmm(smooth, x.view(n, size, channels * size)))
    return x.view(n, size, channels, size).transpose(1, 2)


def _box_radius(sigma: Tensor) -> Tensor:
    """Radius of the box whose threefold use has this deviation.

    Gwosdek, Grewenig, Bruhn and Weickert, "Theoretical foundations of Gaussian convolution by
    extended box filtering", 2011: whole pixels, and a share of the next ones.
    """
    variance = sigma.square() / 3
    whole = (((12 * variance + 1).sqrt() - 1) / 2).floor()
    share = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return whole + share / (6 * (variance - (whole + 1).square()))


def _box_filter(sigma: Tensor, size: int, reach: int) -> Tensor:
    """Matrices (N, size, size) of a box filter beyond whose edges the last pixel goes on."""
    radius = _box_radius(sigma)[:, None, None]
    to = torch.arange(size, device=sigma.device)[:, None]
    at = torch.arange(-reach, size + reach, device=sigma.device)
    band = (radius + 1 - (at - to).abs()).clamp(0, 1) / (2 * radius + 1)
    inner = band[:, :, reach : reach + size].clone()
    inner[:, :, 0] += band[:, :, :reach].sum(dim=2)
    inner[:, :, -1] += band[:, :, reach + size :].sum(dim=2)
    return inner


def _to_levels(x: Tensor) -> Tensor:
    """The next of the levels 0..255, as Pillow rounds after each pass."""
    return x.add_(0.5).floor_().clamp_(0, 255)


def _in_levels(weights: Tensor) -> Tensor:
    return (weights * _LEVELS).round_().div_(_LEVELS)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Keep float32 products from being rounded to TF32 or bfloat16, as a training may have it."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # before torch 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    mkldnn: Any = torch.backends.mkldnn  # whose attributes are not all typed
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, mkldnn.matmul)
    kept = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, kept, strict=True):
            backend.fp32_precision = precision
