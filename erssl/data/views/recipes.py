"""View recipes: how one image becomes the views that a method compares.

Every recipe is composed of lightly's transforms. lightly's ``DINOTransform`` is not used, because
its second global view ignores ``cj_strength`` (seen in lightly 1.6.0); its ``DINOViewTransform``
is, once a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightly.transforms.byol_transform import (
    BYOLTransform,
    BYOLView1Transform,
    BYOLView2Transform,
)
from lightly.transforms.dino_transform import DINOViewTransform
from lightly.transforms.gaussian_blur import GaussianBlur
from lightly.transforms.mae_transform import MAETransform
from lightly.transforms.multi_view_transform import MultiViewTransform
from lightly.transforms.simclr_transform import SimCLRViewTransform
from lightly.transforms.torchvision_v2_compatibility import torchvision_transforms as T
from timm.data.auto_augment import rand_augment_transform

from erssl.data.bands import GREY, RGB
from erssl.data.checks import as_numbers, check_choice, check_whole
from erssl.data.views.bands import BandView, ResizedBands
from erssl.data.views.draws import ViewSpec, read_view
from erssl.errors import ConfigError

Recipe = Literal[
    "byol", "simclr", "mocov2", "infomin", "mae", "simmim", "dino", "swav", "cifar", "digits"
]
Scale = tuple[float, float]

RECIPES: tuple[str, ...] = get_args(Recipe)
MULTI_CROP_RECIPES: tuple[str, ...] = ("dino", "swav", "cifar", "digits")
ONE_VIEW_RECIPES: tuple[str, ...] = ("mae", "simmim")

_GLOBAL_SCALE: dict[str, Scale] = {  # of two views; else lightly's and BYOL's (0.08, 1)
    "mocov2": (0.2, 1.0),  # MoCo's code
    "infomin": (0.2, 1.0),  # PyContrast, augmentation "D"
    "mae": (0.2, 1.0),  # MAE's code
    "simmim": (0.67, 1.0),  # SimMIM's code
    "digits": (0.5, 1.0),
}
_LOCAL_SCALE: dict[str, Scale] = {
    "dino": (0.05, 0.4),  # MVEB §6.1, DINO's two-to-many crops
    "swav": (0.05, 0.14),  # SwAV's code
    "cifar": (0.05, 0.4),  # as "dino"
    "digits": (0.3, 0.5),  # below 0.3 a stroke is left that several digits share
}


@dataclass(frozen=True)
class ViewOptions:
    """What the views of an image are.

    Attributes:
        recipe: Which augmentation.

            - ``"dino"``: MVEB §6.1 and DINO: jitter 0.4/0.4/0.2/0.1 with probability 0.8, grey
              0.2, blur 1.0 / 0.1 / 0.5 (first, second, local views), solarisation 0.2 on the
              second view, bicubic.
            - ``"byol"``: lightly's BYOL defaults (the same strengths, bilinear), two views.
            - ``"simclr"``: lightly's SimCLR defaults (jitter 0.8/0.8/0.8/0.2), two views.
            - ``"mocov2"``: SimCLR's with MoCo v2's weaker jitter 0.4/0.4/0.4/0.1 and larger crops,
              two views; SimSiam and UniGrad too.
            - ``"infomin"``: InfoMin's "D" as in PyContrast: SimCLR's jitter, blur 0.5, timm's
              RandAugment (2 operations of magnitude 10 ± 0.5, each with probability 0.5), grey
              0.2, two views.
            - ``"mae"``, ``"simmim"``: crop and flip only, bicubic, one view.
            - ``"swav"``: jitter 0.8/0.8/0.8/0.2 and blur 0.5 in every view; bicubic here, bilinear
              in SwAV's code.
            - ``"cifar"``: lightly's CIFAR-10 benchmark for SimCLR (strength 0.5, thus jitter
              0.4/0.4/0.4/0.1, and no blur, which would wipe out 32 × 32 images), bicubic.
            - ``"digits"``: small grey scans of characters: no flips (a mirrored 2 or a turned 6
              is another sign or none), no colour, no blur; rotation within ±15 degrees and jitter
              of brightness and contrast 0.4 with probability 0.8.
        n_local_views: Number of small crops beside the two global views.
        local_image_size: Side of the local views in pixels, at most that of the global views.
        global_scale: Smallest and largest share of the image's area in a global view. ``None``
            is the recipe's own: (0.08, 1) for two views (lightly's and BYOL's default: the
            variety must come from the crops themselves) but (0.4, 1) for ``"dino"`` and
            ``"cifar"`` once there are local views (MVEB §6.1: the local views bring the variety,
            and a global view is the whole that they are compared with) and (0.14, 1) for
            ``"swav"``; (0.2, 1) for ``"mocov2"``, ``"infomin"`` and ``"mae"``, (0.67, 1) for
            ``"simmim"``; (0.5, 1) for ``"digits"``, where half of a scan still shows which digit
            it is.
        local_scale: The same for the local views. ``None``: (0.05, 0.4) (MVEB §6.1),
            (0.05, 0.14) for ``"swav"`` and (0.3, 0.5) for ``"digits"``.

    Raises:
        ConfigError: If a value is out of range, or the recipe has no local views.
    """

    recipe: Recipe = "dino"
    n_local_views: int = 0
    local_image_size: int = 96
    global_scale: Scale | None = None
    local_scale: Scale | None = None

    def __post_init__(self) -> None:
        """Check the values; pairs may come as lists, as configuration files have them."""
        check_choice("data.views.recipe", self.recipe, RECIPES)
        check_whole("data.views.n_local_views", self.n_local_views, 0, "a number of views")
        check_whole("data.views.local_image_size", self.local_image_size, 1, "a size in pixels")
        if self.n_local_views > 0 and self.recipe not in MULTI_CROP_RECIPES:
            raise ConfigError(
                f"data.views.n_local_views={self.n_local_views} cannot be had with "
                f"data.views.recipe={self.recipe}, which has none; choose one of "
                f"{', '.join(MULTI_CROP_RECIPES)}, or n_local_views=0."
            )
        for key in ("global_scale", "local_scale"):
            object.__setattr__(self, key, _checked_scale(f"data.views.{key}", getattr(self, key)))
        if (
            self.global_scale is not None
            and self.global_scale[1] != 1
            and self.recipe not in MULTI_CROP_RECIPES
        ):
            raise ConfigError(
                f"data.views.global_scale={self.global_scale} does not end at 1, which "
                f"data.views.recipe={self.recipe} needs; end it at 1, or choose one of "
                f"{', '.join(MULTI_CROP_RECIPES)}."
            )

    @property
    def n_views(self) -> int:
        """Number of views of an image, global and local."""
        return 1 if self.recipe in ONE_VIEW_RECIPES else 2 + self.n_local_views


def build_views(
    options: ViewOptions, image_size: int, mean: Sequence[float], std: Sequence[float]
) -> MultiViewTransform:
    """Make the transform from an image to its views.

    Of grey images and those of other channels, what is made for colours is left out: shifts of hue
    and saturation and the loss of colour; of other channels solarisation too.

    Args:
        options: The recipe and its sizes.
        image_size: Side of the global views in pixels.
        mean: Channel means to subtract, one value a channel for pixels in 0..1.
        std: Channel deviations to divide by.

    Returns:
        A transform from a PIL image, or a tensor of other channels than one or three, to a list of
        ``options.n_views`` tensors: two (of ``"mae"`` and ``"simmim"`` one) of (C, image_size,
        image_size), then the local ones of (C, local_image_size, local_image_size).

    Raises:
        ConfigError: If the local views are larger than the global ones, or the recipe cannot be had
            for so many channels.
    """
    if len(mean) not in (GREY, RGB):
        return _band_views(options, image_size, mean, std)
    if options.n_local_views > 0 and options.local_image_size > image_size:
        raise ConfigError(
            f"data.views.local_image_size={options.local_image_size} is larger than "
            f"data.image_size={image_size}; local views are the small ones, so give at most "
            f"{image_size}."
        )
    scale = options.global_scale or _default_global_scale(options)
    normalize = {"mean": list(mean), "std": list(std)}
    colourless = _COLOURLESS if len(mean) == GREY else {}
    if options.recipe == "byol":
        common: dict[str, Any] = {
            "input_size": image_size,
            "min_scale": scale[0],
            "normalize": normalize,
            **colourless,
        }
        return BYOLTransform(BYOLView1Transform(**common), BYOLView2Transform(**common))
    if options.recipe in ("simclr", "mocov2"):
        jitter = (_JITTER_MOCOV2 if options.recipe == "mocov2" else {}) | colourless
        view = SimCLRViewTransform(
            input_size=image_size, min_scale=scale[0], normalize=normalize, **jitter
        )
        return MultiViewTransform([view, view])
    if options.recipe == "infomin":
        return MultiViewTransform([_infomin_view(image_size, scale, normalize)] * 2)
    if options.recipe in ONE_VIEW_RECIPES:
        one = MAETransform(input_size=image_size, min_scale=scale[0], normalize=normalize)
        return MultiViewTransform([one.transform])
    globals_ = [
        DINOViewTransform(
            crop_size=image_size,
            crop_scale=scale,
            normalize=normalize,
            **(_strengths(options.recipe, role) | colourless),
        )
        for role in (0, 1)
    ]
    local = DINOViewTransform(
        crop_size=options.local_image_size,
        crop_scale=options.local_scale or _LOCAL_SCALE[options.recipe],
        normalize=normalize,
        **(_strengths(options.recipe, 2) | colourless),
    )
    return MultiViewTransform([*globals_, *[local] * options.n_local_views])


def build_eval_transform(
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bilinear",
    crop_pct: float | None = None,
) -> Any:
    """Make the transform without augmentation, for features and accuracy.

    From 96 pixels up the shorter side is resized to 256/224 of ``image_size`` before the centre is
    cut out, as is usual on ImageNet (256, then 224); small images are used to their edge.

    Args:
        image_size: Side of the result in pixels.
        mean: Channel means to subtract, one value a channel for pixels in 0..1.
        std: Channel deviations to divide by.
        interpolation: ``bilinear``, ``bicubic``, ``nearest`` or ``lanczos``.
        crop_pct: The centre's share of the shorter side, in place of that rule (timm's key).

    Returns:
        A transform from a PIL image, or a tensor of other channels than one or three, to a tensor
        (C, image_size, image_size).
    """
    resized = round(image_size * 256 / 224) if image_size >= 96 else image_size
    if crop_pct is not None:
        resized = int(image_size / crop_pct)  # as timm rounds
    if len(mean) not in (GREY, RGB):
        return ResizedBands(resized, image_size, mean, std, interpolation)
    return T.Compose(
        [
            T.Resize(resized, T.InterpolationMode(interpolation)),
            T.CenterCrop(image_size),
            T.ToTensor(),
            T.Normalize(mean=list(mean), std=list(std)),
        ]
    )


def build_crop_transform(
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    scale: Scale = (0.08, 1.0),
    flip: bool = True,
) -> Any:
    """Make the transform by which classifiers are trained: a random crop, flipped half of the time.

    Args:
        image_size: Side of the result in pixels.
        mean: Channel means to subtract, one value a channel for pixels in 0..1.
        std: Channel deviations to divide by.
        scale: Area of the crop as a share of the image's.
        flip: Whether to flip at all.

    Returns:
        A transform from a PIL image, or a tensor of other channels than one or three, to a tensor
        (C, image_size, image_size).
    """
    if len(mean) not in (GREY, RGB):
        ratio = (3 / 4, 4 / 3)  # torchvision's
        spec = ViewSpec(image_size, scale, ratio, "bilinear", flip_prob=0.5 * flip)
        return BandView(spec, mean, std)
    return T.Compose(
        [
            T.RandomResizedCrop(image_size, scale=scale),
            *([T.RandomHorizontalFlip()] if flip else []),
            T.ToTensor(),
            T.Normalize(mean=list(mean), std=list(std)),
        ]
    )


def _band_views(
    options: ViewOptions, image_size: int, mean: Sequence[float], std: Sequence[float]
) -> MultiViewTransform:
    """The views of RGB images, done to channels that are none."""
    if options.recipe == "infomin":
        raise ConfigError(
            f"data.views.recipe=infomin has RandAugment, which is for 8-bit RGB or grey, and "
            f"data.channels is {len(mean)}; choose another data.views.recipe."
        )
    rgb = build_views(options, image_size, (0.0,) * RGB, (1.0,) * RGB)
    return MultiViewTransform([BandView(read_view(v), mean, std) for v in rgb.transforms])


def _default_global_scale(options: ViewOptions) -> Scale:
    if options.n_local_views > 0 and options.recipe != "digits":
        return (0.14, 1.0) if options.recipe == "swav" else (0.4, 1.0)
    return _GLOBAL_SCALE.get(options.recipe, (0.08, 1.0))


def _infomin_view(image_size: int, scale: Scale, normalize: dict[str, list[float]]) -> Any:
    """Augmentation "D" of PyContrast, in its order."""
    grey = len(normalize["mean"]) == GREY
    colours = (0.0, 0.0) if grey else (0.8, 0.2)
    filling = _MEAN_GREY if grey else _MEAN_COLOUR
    return T.Compose(
        [
            T.RandomResizedCrop(image_size, scale=scale),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(0.8, 0.8, *colours)], p=0.8),
            GaussianBlur(sigmas=(0.1, 2.0), prob=0.5),
            rand_augment_transform("rand-m10-n2-mstd0.5", {"img_mean": filling}),
            *([] if grey else [T.RandomGrayscale(p=0.2)]),
            T.ToTensor(),
            T.Normalize(**normalize),
        ]
    )


def _strengths(recipe: str, role: int) -> dict[str, Any]:
    """Keywords of lightly's view transform; role 0 and 1 are the global views, 2 is local."""
    if recipe == "swav":
        return _STRENGTHS_SWAV
    if recipe == "dino":
        return _JITTER_DINO | {
            "gaussian_blur": (1.0, 0.1, 0.5)[role],
            "solarization_prob": (0.0, 0.2, 0.0)[role],
        }
    return _STRENGTHS_CIFAR if recipe == "cifar" else _STRENGTHS_DIGITS


_MEAN_COLOUR, _MEAN_GREY = (124, 116, 104), 117  # of ImageNet: PyContrast's, and its luma
_COLOURLESS: dict[str, Any] = {"cj_sat": 0.0, "cj_hue": 0.0, "random_gray_scale": 0.0}
_JITTER_DINO: dict[str, Any] = {
    "cj_strength": 1.0,
    "cj_bright": 0.4,
    "cj_contrast": 0.4,
    "cj_sat": 0.2,
    "cj_hue": 0.1,
}
_JITTER_MOCOV2: dict[str, Any] = {
    "cj_strength": 1.0,
    "cj_bright": 0.4,
    "cj_contrast": 0.4,
    "cj_sat": 0.4,
    "cj_hue": 0.1,
}
_STRENGTHS_SWAV: dict[str, Any] = {
    "cj_strength": 1.0,
    "cj_bright": 0.8,
    "cj_contrast": 0.8,
    "cj_sat": 0.8,
    "cj_hue": 0.2,
    "gaussian_blur": 0.5,
    "solarization_prob": 0.0,
}
# lightly's CIFAR-10 benchmark: SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
_STRENGTHS_CIFAR: dict[str, Any] = {
    "cj_strength": 0.5,
    "cj_bright": 0.8,
    "cj_contrast": 0.8,
    "cj_sat": 0.8,
    "cj_hue": 0.2,
    "gaussian_blur": 0.0,
    "solarization_prob": 0.0,
}
_STRENGTHS_DIGITS: dict[str, Any] = {
    "hf_prob": 0.0,
    "vf_prob": 0.0,
    "rr_prob": 1.0,
    "rr_degrees": 15.0,
    "cj_strength": 1.0,
    "cj_bright": 0.4,
    "cj_contrast": 0.4,
    "cj_sat": 0.0,
    "cj_hue": 0.0,
    "random_gray_scale": 0.0,
    "gaussian_blur": 0.0,
    "solarization_prob": 0.0,
}


def _checked_scale(key: str, value: Sequence[float] | None) -> Scale | None:
    if value is None:
        return None
    low, high = as_numbers(key, value, 2, "a range of crop areas")
    if not 0 < low <= high <= 1:
        raise ConfigError(
            f"{key}={[low, high]} is not a range of crop areas; give two shares of the image, "
            "the smaller first, above 0 and up to 1."
        )
    return low, high
