"""Views of images of other than one or three channels, tensors (C, H, W) of any values.

What a view does is read from lightly's transform (:mod:`erssl.data.views.draws`). What is made for
colours has no meaning for channels that are none and is left out: shifts of hue and saturation,
the loss of colour, and solarisation, whose threshold is half of a screen's range. Values are not
cut off, since their range is not known.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from erssl.data.views.draws import JITTERS, NUMBERS, ViewSpec, draw_view

_BRIGHTNESS, _CONTRAST = JITTERS.index("brightness"), JITTERS.index("contrast")


class BandView:
    """One view of an image, drawn from torch's global generator."""

    def __init__(self, spec: ViewSpec, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take what lightly's transform does, and the statistics of the channels."""
        self.spec = dataclasses.replace(spec, grey_prob=0.0, solarize_prob=0.0)
        self.mean = torch.tensor(list(mean))[:, None, None]
        self.std = torch.tensor(list(std))[:, None, None]

    def __repr__(self) -> str:
        """What the view does."""
        return f"BandView({self.spec}, {self.mean.flatten()}, {self.std.flatten()})"

    def __call__(self, bands: Tensor) -> Tensor:
        """A view (C, size, size), normalised, of an image (C, H, W)."""
        spec = self.spec
        height, width = bands.shape[1:]
        draws: Any = draw_view(
            spec, torch.tensor([height]), torch.tensor([width]), torch.rand(1, NUMBERS)
        )
        top, left, tall, wide = draws.crop[0].tolist()
        x = resized(bands[:, top : top + tall, left : left + wide], spec.size, spec.interpolation)
        sides = [d for d, on in ((2, draws.flip), (1, draws.vertical_flip)) if bool(on)]
        x = x.flip(sides) if sides else x
        if spec.degrees:
            x = tv.rotate(x, float(draws.angle), InterpolationMode.NEAREST)
        if draws.jitter:
            for number in draws.order[0].tolist():
                x = _jittered(x, number, float(draws.factors[0, number]))
        if draws.sigma > 0:
            x = blurred(x, float(draws.sigma))
        return (x - self.mean) / self.std


class ResizedBands:
    """The transform without augmentation: the shorter side resized, the centre cut out."""

    def __init__(
        self,
        resize: int,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: str,
    ) -> None:
        """Take the length of the shorter side, the side of the result, and the statistics."""
        self.resize, self.size, self.interpolation = resize, size, interpolation
        self.mean = torch.tensor(list(mean))[:, None, None]
        self.std = torch.tensor(list(std))[:, None, None]

    def __repr__(self) -> str:
        """What it does, for the key of cached features."""
        what = f"{self.resize}, {self.size}, {self.interpolation}"
        return f"ResizedBands({what}, {self.mean.flatten()}, {self.std.flatten()})"

    def __call__(self, bands: Tensor) -> Tensor:
        """The centre (C, size, size), normalised, of an image (C, H, W)."""
        mode = InterpolationMode(self.interpolation)
        whole = tv.resize(bands, [self.resize], mode, antialias=True)
        x: Tensor = tv.center_crop(whole, [self.size])
        return (x - self.mean) / self.std


def resized(bands: Tensor, size: int, interpolation: str) -> Tensor:
    """Resize (C, h, w) to (C, size, size), antialiased as by Pillow."""
    whole = F.interpolate(bands[None], (size, size), mode=interpolation, antialias=True)
    return whole[0]


def blurred(bands: Tensor, sigma: float) -> Tensor:
    """Blur (C, H, W) by a Gaussian cut off at three deviations; beyond edges the last pixel."""
    reach = math.ceil(3 * sigma)
    at = torch.arange(-reach, reach + 1, dtype=bands.dtype)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel /= kernel.sum()
    x = F.pad(bands[:, None], (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(x, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]


def _jittered(x: Tensor, number: int, factor: float) -> Tensor:
    """Brightness as of light, contrast about each channel's mean; nothing for hue, saturation."""
    if number == _BRIGHTNESS:
        return x * factor
    if number == _CONTRAST:
        mean = x.mean(dim=(1, 2), keepdim=True)
        return mean + factor * (x - mean)
    return x
