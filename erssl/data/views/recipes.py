"""The view recipes: how one image becomes the views that a method compares, a row each.

Every recipe is composed of lightly's transforms. lightly's ``DINOTransform`` is not used, because
its second global view ignores ``cj_strength`` (seen in lightly 1.6.0); its ``DINOViewTransform``
is, once a view.
"""

from __future__ import annotations

from typing import Any

from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform
from lightly.transforms.dino_transform import DINOViewTransform
from lightly.transforms.gaussian_blur import GaussianBlur
from lightly.transforms.mae_transform import MAETransform
from lightly.transforms.simclr_transform import SimCLRViewTransform
from lightly.transforms.torchvision_v2_compatibility import torchvision_transforms as T
from timm.data.auto_augment import rand_augment_transform

from erssl.data.bands import GREY
from erssl.data.views.options import Crops, View, register_views


@register_views("byol")
def byol(crops: Crops) -> list[View]:
    """lightly's BYOL defaults: the strengths of ``"dino"``, bilinear."""
    common = _of_lightly(crops)
    return [BYOLView1Transform(**common), BYOLView2Transform(**common)]


@register_views("simclr")
def simclr(crops: Crops) -> list[View]:
    """lightly's SimCLR defaults: jitter 0.8/0.8/0.8/0.2."""
    return [SimCLRViewTransform(**_of_lightly(crops))] * 2


@register_views("mocov2", global_scale=(0.2, 1.0))  # MoCo's code
def mocov2(crops: Crops) -> list[View]:
    """SimCLR's with MoCo v2's weaker jitter 0.4/0.4/0.4/0.1; SimSiam and UniGrad too."""
    return [SimCLRViewTransform(**_of_lightly(crops), **_jitter(0.4, 0.4, 0.4, 0.1))] * 2


@register_views("infomin", global_scale=(0.2, 1.0))  # PyContrast, augmentation "D"
def infomin(crops: Crops) -> list[View]:
    """InfoMin's "D" as in PyContrast, in its order.

    SimCLR's jitter, blur 0.5, timm's RandAugment (2 operations of magnitude 10 ± 0.5, each with
    probability 0.5), grey 0.2.
    """
    grey = len(crops.normalize["mean"]) == GREY
    filling = 117 if grey else (124, 116, 104)  # ImageNet's mean, and its luma
    view = T.Compose(
        [
            T.RandomResizedCrop(crops.image_size, scale=crops.global_scale),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            GaussianBlur(sigmas=(0.1, 2.0), prob=0.5),
            rand_augment_transform("rand-m10-n2-mstd0.5", {"img_mean": filling}),
            T.RandomGrayscale(p=0.2),
            T.ToTensor(),
            T.Normalize(**crops.normalize),
        ]
    )
    return [view] * 2


@register_views("simmim", global_scale=(0.67, 1.0), n_global=1)  # SimMIM's code
@register_views("mae", global_scale=(0.2, 1.0), n_global=1)  # MAE's code
def masked(crops: Crops) -> list[View]:
    """Crop and flip only, bicubic, one view."""
    view: View = MAETransform(**_of_lightly(crops)).transform
    return [view]


@register_views(
    "dino",  # MVEB §6.1, DINO's two-to-many crops: with local views, a global one is the whole
    beside_local=(0.4, 1.0),
    local_scale=(0.05, 0.4),
)
def dino(crops: Crops) -> list[View]:
    """MVEB §6.1 and DINO.

    Jitter 0.4/0.4/0.2/0.1 with probability 0.8, grey 0.2, blur 1.0 / 0.1 / 0.5 (first, second,
    local views), solarisation 0.2 on the second view, bicubic.
    """
    jitter = _jitter(0.4, 0.4, 0.2, 0.1)
    first = jitter | {"gaussian_blur": 1.0, "solarization_prob": 0.0}
    second = jitter | {"gaussian_blur": 0.1, "solarization_prob": 0.2}
    local = jitter | {"gaussian_blur": 0.5, "solarization_prob": 0.0}
    return _multi_crop(crops, first, second, local)


@register_views("swav", beside_local=(0.14, 1.0), local_scale=(0.05, 0.14))  # SwAV's code
def swav(crops: Crops) -> list[View]:
    """Jitter 0.8/0.8/0.8/0.2 and blur 0.5 in every view; bicubic, bilinear in SwAV's code."""
    every = _jitter(0.8, 0.8, 0.8, 0.2) | {"gaussian_blur": 0.5, "solarization_prob": 0.0}
    return _multi_crop(crops, every, every, every)


_BESIDE = (0.4, 1.0)  # as "dino"
_LOCAL = (0.05, 0.4)


@register_views("cifar", beside_local=_BESIDE, local_scale=_LOCAL)
def cifar(crops: Crops) -> list[View]:
    """lightly's CIFAR-10 benchmark for SimCLR, bicubic.

    ``SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)``: jitter 0.4/0.4/0.4/0.1,
    and no blur, which would wipe out images of 32 × 32.
    """
    every = _cifar_strengths(0.5)
    return _multi_crop(crops, every, every, every)


@register_views("cifar_no_jitter", beside_local=_BESIDE, local_scale=_LOCAL)
def cifar_no_jitter(crops: Crops) -> list[View]:
    """``"cifar"`` without jitter: views that share their colours, but where one is grey."""
    every = _cifar_strengths(0.0)
    return _multi_crop(crops, every, every, every)


@register_views("cifar_double_jitter", beside_local=_BESIDE, local_scale=_LOCAL)
def cifar_double_jitter(crops: Crops) -> list[View]:
    """``"cifar"`` with twice its jitter, which is SimCLR's for ImageNet: 0.8/0.8/0.8/0.2."""
    every = _cifar_strengths(1.0)
    return _multi_crop(crops, every, every, every)


@register_views("cifar_one_grey", beside_local=_BESIDE, local_scale=_LOCAL)
def cifar_one_grey(crops: Crops) -> list[View]:
    """``"cifar"`` whose first view keeps its colours and whose second has none; local ones do."""
    every = _cifar_strengths(0.5) | {"random_gray_scale": 0.0}
    return _multi_crop(crops, every, every | {"random_gray_scale": 1.0}, every)


@register_views(
    "digits",
    global_scale=(0.5, 1.0),  # half of a scan still shows which digit it is
    local_scale=(0.3, 0.5),  # below 0.3 a stroke is left that several digits share
)
def digits(crops: Crops) -> list[View]:
    """Small grey scans of characters.

    No flips (a mirrored 2 or a turned 6 is another sign or none), no colour, no blur; rotation
    within ±15 degrees, jitter of brightness and contrast 0.4 with probability 0.8.
    """
    every = _jitter(0.4, 0.4, 0.0, 0.0) | {
        "hf_prob": 0.0,
        "vf_prob": 0.0,
        "rr_prob": 1.0,
        "rr_degrees": 15.0,
        "random_gray_scale": 0.0,
        "gaussian_blur": 0.0,
        "solarization_prob": 0.0,
    }
    return _multi_crop(crops, every, every, every)


def _cifar_strengths(jitter: float) -> dict[str, Any]:
    """Keywords of the views of ``"cifar"``, with a strength of the jitter."""
    return _jitter(0.8, 0.8, 0.8, 0.2) | {
        "cj_strength": jitter,
        "gaussian_blur": 0.0,
        "solarization_prob": 0.0,
    }


def _jitter(brightness: float, contrast: float, saturation: float, hue: float) -> dict[str, Any]:
    """Colour jitter as keywords of lightly's view transforms."""
    return {
        "cj_strength": 1.0,
        "cj_bright": brightness,
        "cj_contrast": contrast,
        "cj_sat": saturation,
        "cj_hue": hue,
    }


def _of_lightly(crops: Crops) -> dict[str, Any]:
    """What lightly's transforms of two views take."""
    return {
        "input_size": crops.image_size,
        "min_scale": crops.global_scale[0],
        "normalize": crops.normalize,
    }


def _multi_crop(
    crops: Crops, first: dict[str, Any], second: dict[str, Any], local: dict[str, Any]
) -> list[View]:
    """Two global views and any number of local ones, with keywords of lightly's view transform."""
    views: list[View] = [
        DINOViewTransform(
            crop_size=crops.image_size,
            crop_scale=crops.global_scale,
            normalize=crops.normalize,
            **strengths,
        )
        for strengths in (first, second)
    ]
    small = DINOViewTransform(
        crop_size=crops.local_image_size,
        crop_scale=crops.local_scale,
        normalize=crops.normalize,
        **local,
    )
    return [*views, *[small] * crops.n_local_views]
