"""The views of a recipe by other packages, for ``benchmarks.views``: each as it is best used.

torchvision's v2 transforms work on 8-bit tensors of each image, albumentations on OpenCV's pixels,
kornia on a batch of floats, which needs images of one size. Operations, parameters and
probabilities are those of a `ViewSpec`; where a package's operation is another one (its blur has a
kernel of fixed size, its crops are not antialiased, its hue is in other steps), it stays so. Only
torchvision is a dependency: the others are measured where they are installed (albumentationsx is
under the AGPL, and nothing else here may import it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from erssl.data.views.draws import ViewSpec

_KERNEL = 9  # wide enough for sigma up to 2: four of them
_Batch = Callable[[Sequence[str]], list[Tensor]]


def peers(specs: Sequence[ViewSpec]) -> dict[str, _Batch]:
    """What makes the finished views (N, 3, H, W) of files, by name of the package."""
    makers = {"torchvision v2": _torchvision, "kornia": _kornia, "albumentations": _albumentations}
    made = {}
    for name, maker in makers.items():
        try:
            made[name] = maker(specs)
        except ImportError:
            print(f"{name} is not installed and left out")
    return made


def versions() -> dict[str, str]:
    """Versions of the packages that are installed, by the names that an index knows them by."""
    return {
        package: version(package)
        for package in ("torchvision", "kornia", "albumentationsx")
        if find_spec(package.removesuffix("x")) is not None
    }


def _torchvision(specs: Sequence[ViewSpec]) -> _Batch:
    def view(spec: ViewSpec) -> v2.Transform:
        way = v2.InterpolationMode(spec.interpolation)
        return v2.Compose(
            [
                v2.RandomResizedCrop(spec.size, spec.scale, spec.ratio, way, antialias=True),
                v2.RandomHorizontalFlip(spec.flip_prob),
                v2.RandomApply([v2.ColorJitter(*map(tuple, spec.jitter))], spec.jitter_prob),
                v2.RandomGrayscale(spec.grey_prob),
                v2.RandomApply([v2.GaussianBlur(_KERNEL, spec.blur_sigmas)], spec.blur_prob),
                v2.RandomSolarize(128, spec.solarize_prob),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(spec.mean, spec.std),
            ]
        )

    views = [view(spec) for spec in specs]

    def batch(paths: Sequence[str]) -> list[Tensor]:
        images = [decode_image(path, ImageReadMode.RGB) for path in paths]
        return [torch.stack([make(image) for image in images]) for make in views]

    return batch


def _kornia(specs: Sequence[ViewSpec]) -> _Batch:
    import kornia.augmentation as K

    def view(spec: ViewSpec) -> Any:
        jitter = K.ColorJitter(*spec.jitter, p=spec.jitter_prob)
        return K.AugmentationSequential(
            K.RandomResizedCrop((spec.size, spec.size), spec.scale, spec.ratio),
            K.RandomHorizontalFlip(p=spec.flip_prob),
            jitter,
            K.RandomGrayscale(p=spec.grey_prob),
            K.RandomGaussianBlur((_KERNEL, _KERNEL), spec.blur_sigmas, p=spec.blur_prob),
            K.RandomSolarize((0.5, 0.5), (0.0, 0.0), p=spec.solarize_prob),
            K.Normalize(torch.tensor(spec.mean), torch.tensor(spec.std)),
        )

    views = [view(spec) for spec in specs]

    def batch(paths: Sequence[str]) -> list[Tensor]:
        images = torch.stack([decode_image(path, ImageReadMode.RGB) for path in paths]) / 255
        return [make(images) for make in views]

    return batch


def _albumentations(specs: Sequence[ViewSpec]) -> _Batch:
    import albumentations as A

    ways = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}

    def view(spec: ViewSpec) -> Any:
        names = ("brightness_range", "contrast_range", "saturation_range", "hue_range")
        jitter = dict(zip(names, map(tuple, spec.jitter), strict=True))
        crop = {"size": (spec.size, spec.size), "scale": spec.scale, "ratio": spec.ratio}
        return A.Compose(
            [
                A.RandomResizedCrop(**crop, interpolation=ways[spec.interpolation]),
                A.HorizontalFlip(p=spec.flip_prob),
                A.ColorJitter(**jitter, p=spec.jitter_prob),
                A.ToGray(p=spec.grey_prob),
                A.GaussianBlur(blur_range=(0, 0), sigma_range=spec.blur_sigmas, p=spec.blur_prob),
                A.Solarize(threshold_range=(0.5, 0.5), p=spec.solarize_prob),
                A.Normalize(spec.mean, spec.std),
            ]
        )

    views = [view(spec) for spec in specs]

    def batch(paths: Sequence[str]) -> list[Tensor]:
        images = [
            cv2.imdecode(np.frombuffer(Path(p).read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
            for p in paths
        ]
        made = [[np.moveaxis(make(image=x)["image"], -1, 0) for x in images] for make in views]
        return [torch.from_numpy(np.stack(each)) for each in made]

    return batch
