"""Views on the CPU, several times as fast as lightly's, of the same distribution.

What a view does is read from lightly's transform (:mod:`erssl.data.views.draws`) and done to 8-bit
pixels (H, W, 3) in its order: an image is decoded once for all of its views, crops are resized by
torch, whose antialiasing is Pillow's, colours are changed by OpenCV, channels are set apart, and
each batch is normalised once, where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from erssl.data.datasets import ImageDataset
from erssl.data.views.draws import ViewSpec, draw_view, uniform_numbers
from erssl.data.views.fast_images import KnownSize, Pixels, known_size, reduction

_HELD = 2**25  # bytes of undecoded files and small images whose views are drawn at once
_HALF = 0.499  # OpenCV rounds, Pillow cuts off; whole numbers must not fall below themselves
_SOLARIZED = np.array([x if x < 128 else 255 - x for x in range(256)], dtype=np.uint8)


class Drawn(NamedTuple):
    """What was drawn for one view of one image: a row of `ViewDraws`."""

    crop: Sequence[int]
    flip: bool
    vertical_flip: bool
    angle: float
    jitter: bool
    order: Sequence[int]
    factors: Sequence[float]
    grey: bool
    sigma: float
    solarize: bool


class FastImages(Dataset[tuple[list[Tensor], int]]):
    """The 8-bit views of images, by epoch and number of the image."""

    def __init__(self, images: ImageDataset, specs: Sequence[ViewSpec], seed: int) -> None:
        """Take the images, the views of each, and the seed of what is drawn."""
        self.images = images
        self.specs = specs
        self.seed = seed

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, place: tuple[int, int]) -> tuple[list[Tensor], int]:
        """The views (C, size, size) of one image, and its class number."""
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[tuple[list[Tensor], int]]:
        """The same for a batch, as torch's loaders ask for it; it is drawn at once."""
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # each loader process has one core
        items: list[tuple[list[Tensor], int]] = []
        sized: list[tuple[KnownSize, int]] = []
        held = 0
        for _, index in places:
            sized.append(known_size(self.images, index))
            held += sized[-1][0].held
            if held > _HELD:
                items += self._items(sized, places[len(items) :][: len(sized)])
                sized, held = [], 0
        return items + (self._items(sized, places[len(items) :]) if sized else [])

    def _items(
        self, sized: Sequence[tuple[KnownSize, int]], places: Sequence[tuple[int, int]]
    ) -> list[tuple[list[Tensor], int]]:
        drawn = draw_views(self.specs, [image for image, _ in sized], places, self.seed)
        channels = len(self.specs[0].mean)  # of grey images the first of three alike
        return [
            (
                [planes(view, channels) for view in make_views(image, self.specs, rows)],
                target,
            )
            for (image, target), rows in zip(sized, drawn, strict=True)
        ]


def draw_views(
    specs: Sequence[ViewSpec],
    images: Sequence[KnownSize],
    places: Sequence[tuple[int, int]],
    seed: int,
) -> list[list[Drawn]]:
    """Draw every view of each image.

    Args:
        specs: The views of an image.
        images: The N images.
        places: Epoch and number of each.
        seed: Of what is drawn.

    Returns:
        For each image, one row for each view.
    """
    heights = torch.tensor([image.height for image in images])
    widths = torch.tensor([image.width for image in images])
    numbers = torch.stack([_numbers(places, seed, view) for view in range(len(specs))])
    drawn: list[list[Drawn]] = [[] for _ in specs]
    for spec in dict.fromkeys(specs):  # views of one kind at once
        views = [view for view, other in enumerate(specs) if other == spec]
        k = len(views)
        draws = draw_view(spec, heights.repeat(k), widths.repeat(k), numbers[views].flatten(0, 1))
        columns = (getattr(draws, name).tolist() for name in Drawn._fields)
        rows = [Drawn(*row) for row in zip(*columns, strict=True)]
        for i, view in enumerate(views):
            drawn[view] = rows[i * len(images) :][: len(images)]
    return [list(rows) for rows in zip(*drawn, strict=True)]


def _numbers(places: Sequence[tuple[int, int]], seed: int, view: int) -> Tensor:
    epochs = list(dict.fromkeys(epoch for epoch, _ in places))
    if len(epochs) > 1:  # never of our samplers, but right all the same
        return torch.cat([_numbers([place], seed, view) for place in places])
    return uniform_numbers(seed, epochs[0], torch.tensor([index for _, index in places]), view)


def make_views(image: KnownSize, specs: Sequence[ViewSpec], drawn: Sequence[Drawn]) -> list[Pixels]:
    """Decode an image as small as its crops allow, and make its views.

    Args:
        image: The image.
        specs: Its views.
        drawn: What was drawn for each.

    Returns:
        Pixels of each view, (size, size, 3), or (size, size) where all channels are alike.
    """
    crops = ((*row.crop[2:], spec.size) for spec, row in zip(specs, drawn, strict=True))
    pixels = image.decode(reduction(crops))  # type: ignore[arg-type]
    step = round(image.height / len(pixels))  # what a reduced image ends with is padding
    views = []
    for spec, row in zip(specs, drawn, strict=True):
        top, left, height, width = row.crop
        rows = _between(top / step, (top + height) / step)
        columns = _between(left / step, (left + width) / step)
        view = resize(pixels[rows, columns], spec.size, spec.interpolation)
        views.append(change(view, spec, row))
    return views


def _between(start: float, end: float) -> slice:
    first = round(start)
    return slice(first, max(first + 1, round(end)))


def change(pixels: Pixels, spec: ViewSpec, drawn: Drawn) -> Pixels:
    """Do to a crop (size, size, 3) what was drawn, in the order of lightly's transforms.

    Returns:
        Pixels (size, size, 3), or (size, size) where all channels are alike.
    """
    if drawn.flip or drawn.vertical_flip:
        pixels = flip(pixels, drawn.flip, drawn.vertical_flip)
    if drawn.angle:
        pixels = rotate(pixels, drawn.angle)
    if drawn.jitter:
        for number in drawn.order:
            low, high = spec.jitter[number]
            if low < high:
                pixels = JITTER[number](pixels, drawn.factors[number])
    if drawn.grey:
        pixels = grey(pixels)  # (size, size) from here on
    if drawn.sigma:
        pixels = blur(pixels, drawn.sigma)
    if drawn.solarize:
        pixels = solarize(pixels)
    return pixels


def planes(pixels: Pixels, channels: int) -> Tensor:
    """Channels (C, size, size) one after another, which a batch is normalised from twice as fast.

    Args:
        pixels: Of a view, (size, size, 3), or (size, size) for channels that are alike.
        channels: How many there are to be; of three that are alike the first is enough.
    """
    if channels == 1:
        grey_levels = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., 0])
        return torch.from_numpy(grey_levels)[None]
    separate = torch.empty((channels, *pixels.shape[:2]), dtype=torch.uint8)
    if pixels.ndim == 2:
        separate[:] = torch.from_numpy(pixels)
    else:
        cv2.split(pixels, list(separate.numpy()))
    return separate


def resize(pixels: Pixels, size: int, interpolation: str) -> Pixels:
    """Resize (h, w, 3) to (size, size, 3), antialiased as by Pillow."""
    crop = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # "channels last" to torch
    resized = F.interpolate(crop, (size, size), mode=interpolation, antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1)[0].numpy())


def flip(pixels: Pixels, horizontally: bool, vertically: bool) -> Pixels:
    """Flip sideways, upside down or both."""
    return _of(cv2.flip(pixels, -1 if horizontally and vertically else int(horizontally)))


def rotate(pixels: Pixels, degrees: float) -> Pixels:
    """Rotate about the centre, counter-clockwise; the nearest pixel, and black beside them."""
    height, width = pixels.shape[:2]
    x, y = (width - 1) / 2, (height - 1) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    source = np.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])
    how = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return _of(cv2.warpAffine(pixels, source, (width, height), flags=how))


def brightness(pixels: Pixels, factor: float) -> Pixels:
    """Multiply every value."""
    return _scaled(pixels, factor, 0.0)


def contrast(pixels: Pixels, factor: float) -> Pixels:
    """Multiply the distance from the mean grey."""
    mean = int(cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return _scaled(pixels, factor, (1 - factor) * mean)


def saturation(pixels: Pixels, factor: float) -> Pixels:
    """Multiply the distance from each pixel's grey."""
    return _of(cv2.addWeighted(pixels, factor, _three_channels(grey(pixels)), 1 - factor, -_HALF))


def hue(pixels: Pixels, turns: float) -> Pixels:
    """Turn the circle of hues, which has 256 steps."""
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    steps = int(turns * 255) % 256  # torchvision's steps, to zero
    rows = hsv.reshape(len(hsv), -1)
    rows += np.tile(np.array([steps, 0, 0], dtype=np.uint8), hsv.shape[1])  # a third of the time
    return _of(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL))


#: By the numbers of `erssl.data.views.draws.JITTERS`.
JITTER: tuple[Callable[[Pixels, float], Pixels], ...] = (brightness, contrast, saturation, hue)


def grey(pixels: Pixels) -> Pixels:
    """The luma (H, W) of ITU-R 601-2."""
    return _of(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


def blur(pixels: Pixels, sigma: float) -> Pixels:
    """Blur as Pillow's Gaussian does, whose three passes are one kernel here."""
    kernel = _kernel(sigma)
    return _of(cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE))


def solarize(pixels: Pixels) -> Pixels:
    """Invert the values from 128 up."""
    return _of(cv2.LUT(pixels, _SOLARIZED))


def _scaled(pixels: Pixels, factor: float, offset: float) -> Pixels:
    shift = offset - _HALF
    affine = np.array(
        [[factor, 0, 0, shift], [0, factor, 0, shift], [0, 0, factor, shift]], np.float32
    )
    return _of(cv2.transform(pixels, affine))  # twice as quick as a look-up table


def _three_channels(pixels: Pixels) -> Pixels:
    return _of(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)) if pixels.ndim == 2 else pixels


def _kernel(sigma: float) -> Any:
    """Three passes of the extended box filter whose variance is a third of the Gaussian's.

    Gwosdek et al., Theoretical foundations of Gaussian convolution by extended box filtering
    (2011), eqs. 7 to 9.
    """
    variance = sigma**2 / 3
    radius = int((math.sqrt(12 * variance + 1) - 1) / 2)
    edge = (2 * radius + 1) * (radius * (radius + 1) - 3 * variance)
    edge /= 6 * (variance - (radius + 1) ** 2)
    box = np.array([edge, *[1.0] * (2 * radius + 1), edge])
    kernel = np.convolve(np.convolve(box, box), box)
    # OpenCV rounds to 256ths; a sum other than 1 would change the brightness.
    steps = np.rint(kernel / kernel.sum() * 256)
    steps[len(steps) // 2] += 256 - steps.sum()
    return (steps[steps > 0] / 256).astype(np.float32)


def _of(pixels: Any) -> Pixels:
    """OpenCV's results, whose type it does not tell."""
    return pixels  # type: ignore[no-any-return]
