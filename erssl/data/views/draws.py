"""What is drawn for a view, for many images at once, on any device.

The views of lightly are made an image at a time from global generators. Where they are made
otherwise (:mod:`erssl.data.views.pipelines`), what they do is read from lightly's own
transform, so that there is one place that says what a recipe is, and what is drawn follows from
seed, epoch and image through a hash, which has no state and is the same on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from lightly.transforms.gaussian_blur import GaussianBlur
from lightly.transforms.rotation import RandomRotateDegrees
from lightly.transforms.solarize import RandomSolarization
from lightly.transforms.torchvision_v2_compatibility import torchvision_transforms as T
from torch import Tensor

from erssl.errors import ConfigError

JITTERS = ("brightness", "contrast", "saturation", "hue")

_ATTEMPTS = 10  # at a crop that fits, before torchvision's RandomResizedCrop takes the centre
_NEUTRAL = (1.0, 1.0, 1.0, 0.0)
NUMBERS = 2 * _ATTEMPTS + 15  # uniform numbers that a view consumes


@dataclass(frozen=True)
class ViewSpec:
    """One view of a recipe: its operations, in this order, and their distributions.

    Attributes:
        size: Side of the view in pixels.
        scale: Smallest and largest area of the crop as a share of the image's.
        ratio: Smallest and largest width by height of the crop.
        interpolation: ``"bilinear"`` or ``"bicubic"``, with antialiasing.
        flip_prob: Probability of a horizontal flip.
        vertical_flip_prob: Probability of a vertical flip.
        degrees: Largest angle of the rotation to either side; 0 for none.
        jitter_prob: Probability of the colour jitter.
        jitter: Smallest and largest factor of brightness, contrast and saturation, and smallest
            and largest shift of the hue in turns; done in random order.
        grey_prob: Probability of the loss of colour.
        blur_prob: Probability of the Gaussian blur.
        blur_sigmas: Smallest and largest standard deviation of its kernel in pixels.
        solarize_prob: Probability that values from 128 up are inverted.
        mean: Channel means to subtract, of pixels in 0..1.
        std: Channel deviations to divide by.
    """

    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: str
    flip_prob: float = 0.0
    vertical_flip_prob: float = 0.0
    degrees: float = 0.0
    jitter_prob: float = 0.0
    jitter: tuple[tuple[float, float], ...] = tuple((n, n) for n in _NEUTRAL)
    grey_prob: float = 0.0
    blur_prob: float = 0.0
    blur_sigmas: tuple[float, float] = (0.1, 2.0)
    solarize_prob: float = 0.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


def read_view(transform: Any) -> ViewSpec:
    """Read what one of lightly's view transforms does.

    Args:
        transform: A lightly view transform, or the ``Compose`` inside it.

    Returns:
        The view.

    Raises:
        ConfigError: If it has a step whose like is not made elsewhere, or its steps come in another
            order than that of `ViewSpec`.
    """
    settings: dict[str, Any] = {}
    order = [f.name for f in fields(ViewSpec)]
    steps = transform if isinstance(transform, T.Compose) else transform.transform
    for step in steps.transforms:
        read = _read_step(step)
        last = max((order.index(key) for key in settings), default=-1)
        if any(order.index(key) <= last for key in read):
            raise _needs_lightly_pipeline(f"{type(step).__name__} in another place than is usual")
        settings |= read
    spec = ViewSpec(**settings)
    if len(spec.mean) != 1:
        return spec
    light = (*spec.jitter[:2], *((n, n) for n in _NEUTRAL[2:]))
    return replace(spec, jitter=light, grey_prob=0.0)  # nothing else is to be seen in grey


def _read_step(step: Any) -> dict[str, Any]:
    if isinstance(step, T.RandomResizedCrop):
        interpolation = T.InterpolationMode(step.interpolation).value
        if step.size[0] == step.size[1] and interpolation in ("bilinear", "bicubic"):
            return {
                "size": step.size[0],
                "scale": tuple(step.scale),
                "ratio": tuple(step.ratio),
                "interpolation": interpolation,
            }
    if isinstance(step, T.RandomHorizontalFlip):
        return {"flip_prob": step.p}
    if isinstance(step, T.RandomVerticalFlip):
        return {"vertical_flip_prob": step.p}
    if isinstance(step, RandomRotateDegrees):
        apply: Any = step.transform
        (rotation,) = apply.transforms
        if apply.p == 1 and rotation.degrees[0] == -rotation.degrees[1]:
            return {"degrees": rotation.degrees[1]}
    if isinstance(step, T.RandomApply) and isinstance(step.transforms[0], T.ColorJitter):
        drawn = (getattr(step.transforms[0], name) for name in JITTERS)
        ranges = tuple(tuple(r) if r else (n, n) for r, n in zip(drawn, _NEUTRAL, strict=True))
        return {"jitter_prob": step.p, "jitter": ranges}
    if isinstance(step, T.RandomGrayscale):
        return {"grey_prob": step.p}
    if isinstance(step, GaussianBlur):
        return {"blur_prob": step.prob, "blur_sigmas": tuple(step.sigmas)}
    if isinstance(step, RandomSolarization) and step.threshold == 128:
        return {"solarize_prob": step.prob}
    if isinstance(step, T.Normalize):
        return {"mean": tuple(step.mean), "std": tuple(step.std)}
    if isinstance(step, T.ToTensor) or getattr(step, "prob", None) == 0:
        return {}
    raise _needs_lightly_pipeline(type(step).__name__)


def _needs_lightly_pipeline(step: str) -> ConfigError:
    return ConfigError(
        f"the view has the step {step}, which only data.pipeline=lightly makes; set that, or "
        "choose another data.views.recipe."
    )


@dataclass(frozen=True)
class ViewDraws:
    """What was drawn for one view of each of N images, every field with N rows.

    Attributes:
        crop: Top, left, height and width in pixels of the image, (N, 4).
        flip: Whether to flip horizontally.
        vertical_flip: Whether to flip vertically.
        angle: Degrees to rotate by, counter-clockwise.
        jitter: Whether to change colours.
        order: Numbers of `JITTERS` in the order in which they come, (N, 4).
        factors: Of brightness, contrast, saturation; shift of the hue in turns, (N, 4).
        grey: Whether colour is lost.
        sigma: Standard deviation of the blur in pixels; 0 for none.
        solarize: Whether to solarise.
    """

    crop: Tensor
    flip: Tensor
    vertical_flip: Tensor
    angle: Tensor
    jitter: Tensor
    order: Tensor
    factors: Tensor
    grey: Tensor
    sigma: Tensor
    solarize: Tensor

    def rows(self, start: int, end: int) -> ViewDraws:
        """What was drawn for the images from ``start`` up to, not with, ``end``."""
        return ViewDraws(**{f.name: getattr(self, f.name)[start:end] for f in fields(self)})


def draw_view(spec: ViewSpec, heights: Tensor, widths: Tensor, numbers: Tensor) -> ViewDraws:
    """Turn uniform numbers into a view.

    Args:
        spec: The view.
        heights: Heights (N,) of the images in pixels.
        widths: Widths (N,) of the images in pixels.
        numbers: Uniform numbers (N, `NUMBERS`) in [0, 1).

    Returns:
        What to do to each image.
    """
    u = numbers[:, 2 * _ATTEMPTS :].unbind(dim=1)
    # With numbers of the spec as scalars: a tensor of them would have to be brought to the device.
    factors = [low + n * (high - low) for n, (low, high) in zip(u[7:11], spec.jitter, strict=True)]
    blur_low, blur_high = spec.blur_sigmas
    return ViewDraws(
        crop=_crop(spec, heights, widths, numbers[:, : 2 * _ATTEMPTS + 2]),
        flip=u[2] < spec.flip_prob,
        vertical_flip=u[3] < spec.vertical_flip_prob,
        angle=(2 * u[4] - 1) * spec.degrees,
        jitter=u[5] < spec.jitter_prob,
        order=_orders(u[6]),
        factors=torch.stack(factors, dim=1),
        grey=u[11] < spec.grey_prob,
        sigma=torch.where(u[12] < spec.blur_prob, blur_low + u[13] * (blur_high - blur_low), 0.0),
        solarize=u[14] < spec.solarize_prob,
    )


def _crop(spec: ViewSpec, heights: Tensor, widths: Tensor, numbers: Tensor) -> Tensor:
    """The first of ten random crops that lies in the image, else the largest central one."""
    heights, widths = heights[:, None].to(numbers), widths[:, None].to(numbers)
    areas = spec.scale[0] + numbers[:, :_ATTEMPTS] * (spec.scale[1] - spec.scale[0])
    low, high = (math.log(r) for r in spec.ratio)
    ratios = (low + numbers[:, _ATTEMPTS : 2 * _ATTEMPTS] * (high - low)).exp()
    areas = areas * heights * widths
    h, w = (areas / ratios).sqrt().round(), (areas * ratios).sqrt().round()
    fits = (h > 0) & (h <= heights) & (w > 0) & (w <= widths)
    first = fits.long().argmax(dim=1, keepdim=True)
    # Where none fits: as much as the allowed ratios leave of the image.
    whole_h = torch.minimum(heights, (widths / spec.ratio[0]).round())
    whole_w = torch.minimum(widths, (heights * spec.ratio[1]).round())
    any_fits = fits.any(dim=1, keepdim=True)
    h = torch.where(any_fits, h.gather(1, first), whole_h)
    w = torch.where(any_fits, w.gather(1, first), whole_w)
    # Half of the room, to the lower pixel, is the centre as torchvision has it.
    place = torch.where(any_fits, numbers[:, 2 * _ATTEMPTS :], 0.5)
    room_h, room_w = heights - h, widths - w
    top = torch.where(any_fits, (place[:, :1] * (room_h + 1)).floor(), (room_h / 2).floor())
    left = torch.where(any_fits, (place[:, 1:] * (room_w + 1)).floor(), (room_w / 2).floor())
    top, left = torch.minimum(top, room_h), torch.minimum(left, room_w)
    return torch.cat([top, left, h, w], dim=1).long()


def _orders(u: Tensor) -> Tensor:
    """One of the 24 orders of four things for each number (N,), as (N, 4)."""
    rank = (u * 24).long().clamp_max(23)[:, None]
    order = torch.zeros_like(rank)
    for things in (2, 3, 4):  # each order of fewer things goes on behind any of one more
        first = rank // math.factorial(things - 1) % things
        order = torch.cat([first, order + (order >= first)], dim=1)
    return order


def uniform_numbers(seed: int, epoch: int, images: Tensor, view: int) -> Tensor:
    """Uniform numbers in [0, 1) that follow from seed, epoch, image and view alone.

    Args:
        seed: Seed of the run, at least 0.
        epoch: Number of the epoch, at least 0.
        images: Numbers of the images (N,), whole.
        view: Number of the view.

    Returns:
        Tensor (N, `NUMBERS`) of float32 on the device of ``images``.
    """
    return numbers_of(streams(seed, epoch, images), view, view + 1)[0]


def streams(seed: int, epoch: int, images: Tensor) -> Tensor:
    """The first half of :func:`uniform_numbers`: what tells apart what is drawn from.

    Args:
        seed: As of :func:`uniform_numbers`.
        epoch: As of :func:`uniform_numbers`.
        images: As of :func:`uniform_numbers`.

    Returns:
        A whole number for each image (N,), for :func:`numbers_of`.
    """
    key = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]) >> 1
    return images.long() * _GOLDEN + key


def numbers_of(streams: Tensor, start: int, end: int) -> Tensor:
    """The second half of :func:`uniform_numbers`, which needs nothing from the host.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014), once over image and key, once over
    each number's place, keeps 24 bits.

    Args:
        streams: What :func:`streams` gave (N,).
        start: Number of the first view.
        end: Number of the view after the last one.

    Returns:
        Tensor (V, N, `NUMBERS`) of float32.
    """
    places = torch.arange(start * NUMBERS, end * NUMBERS, device=streams.device)
    mixed = _mix(streams)[:, None] + (places.view(-1, 1, NUMBERS) + 1) * _GOLDEN
    return (_mix(mixed) >> 40 & 0xFFFFFF).float() / 2**24


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as signed numbers of 64 bits, whose products wrap alike
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def _mix(x: Tensor) -> Tensor:
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
    return x ^ (x >> 31 & (1 << 33) - 1)
