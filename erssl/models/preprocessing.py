"""How images are prepared for a backbone: what its weights say of it, or what is usual."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lightly.transforms.utils import IMAGENET_NORMALIZE

from erssl.errors import ConfigError
from erssl.models.backbones import RESNETS, BackboneOptions
from erssl.models.channels import RGB
from erssl.models.layouts import Layout
from erssl.models.timm_options import square_size
from erssl.models.torchvision_nets import torchvision_preprocessing

_SMALL = 96  # pixels; a transformer of smaller images was not trained on ImageNet's
_DINOV2 = (14, 518)  # patch and size of DINOv2's positions; its authors evaluate at 224 pixels
KEYS = ("image_size", "mean", "std", "interpolation", "crop_pct")


def set_preprocessing(backbone: Any, preprocessing: dict[str, Any]) -> None:
    """Let a backbone say how its images are prepared: ``preprocessing`` and ``transform()``.

    Args:
        backbone: Of features.
        preprocessing: ``image_size``, ``mean``, ``std``, ``interpolation`` and ``crop_pct``, as far
            as they are known, and ``channels`` where they are not three.
    """
    backbone.preprocessing = preprocessing
    if "transform" not in backbone._modules:  # of a module that somebody has made
        backbone.transform = partial(evaluation_transform, preprocessing)


def evaluation_transform(preprocessing: dict[str, Any], **changes: Any) -> Callable[[Any], Any]:
    """Make the transform with which images are evaluated.

    Args:
        preprocessing: As for :func:`set_preprocessing`.
        **changes: Any of its keys, in place of what it says or does not say.

    Returns:
        A function from a PIL image of any mode, or of other channels than one and three from an
        array or tensor of them, to a tensor (C, image_size, image_size), as
        :func:`erssl.data.build_eval_transform` makes it.

    Raises:
        ConfigError: If a key is unknown, or size, means or deviations are.
    """
    from erssl.data import build_eval_transform
    from erssl.data.checks import check_statistics

    said = preprocessing | changes
    channels = said.pop("channels", RGB)
    if unknown := sorted(said.keys() - set(KEYS)):
        raise ConfigError(f"transform() takes {', '.join(KEYS)} but was given {unknown[0]}.")
    if missing := [key for key in ("image_size", "mean", "std") if key not in said]:
        raise ConfigError(
            f"The weights do not say {' or '.join(missing)} of their images; give it, as in "
            "transform(image_size=32, mean=[0.5, 0.5, 0.5], std=[0.2, 0.2, 0.2])."
        )
    if len(said["mean"]) != channels or len(said["std"]) != channels:
        raise ConfigError(
            f"transform() needs a mean and a std for each of the {channels} channels but has "
            f"{len(said['mean'])} and {len(said['std'])}."
        )
    check_statistics("", said["mean"], said["std"])
    return partial(_transformed, channels, build_eval_transform(**said))


def _transformed(channels: int, plain: Callable[[Any], Any], image: Any) -> Any:
    from erssl.data.given import as_image

    return plain(as_image(image, channels))


def usual_preprocessing(
    options: BackboneOptions, layout: Layout, named: bool
) -> tuple[dict[str, Any], str]:
    """What such weights usually need, and whose custom that is.

    Args:
        options: The architecture.
        layout: The rule by which the weights were found.
        named: Whether somebody gave the architecture's name, and not the shapes: then its library
            says what it publishes under that name.

    Returns:
        ``image_size``, ``mean``, ``std``, ``interpolation`` and ``crop_pct`` as far as anything is
        known, and a phrase for the report.
    """
    if options.cifar_stem:
        return {}, ""
    own_size = square_size(options.options)
    if named and layout.published:
        if options.library == "timm":
            return timm_preprocessing(options), f"as timm has it for {options.name}"
        if options.library == "torchvision" and options.name not in RESNETS:
            values = torchvision_preprocessing(options.name)
            return values, f"as torchvision has it for {options.name}"
    if own_size is not None and own_size < _SMALL:
        return {"image_size": own_size}, "of its positions"
    size = 224
    if own_size is not None and (options.options.get("patch_size"), own_size) != _DINOV2:
        size = own_size
    return {
        "image_size": size,
        "mean": list(IMAGENET_NORMALIZE["mean"]),
        "std": list(IMAGENET_NORMALIZE["std"]),
        "interpolation": _interpolation(options, layout),
    }, "ImageNet's"


def _interpolation(options: BackboneOptions, layout: Layout) -> str:
    """That of the project whose file it is; of a bare vision transformer's file bicubic.

    DINO (eval_knn.py, eval_linear.py), DeiT, iBOT and nearly all of timm's resize so; the files of
    those that do not, such as MoCo v3, have names of their own.
    """
    return "bicubic" if layout.published and options.library == "timm" else layout.interpolation


def timm_preprocessing(options: BackboneOptions) -> dict[str, Any]:
    """What timm's ``pretrained_cfg`` of a name says; an ``img_size`` of its own counts first."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(options.name)
    if config is None:
        return {}
    said = from_timm_config(config.to_dict())
    if (size := square_size(options.options)) is not None:
        said["image_size"] = size
    return said


def from_timm_config(config: dict[str, Any]) -> dict[str, Any]:
    """Preprocessing from a ``pretrained_cfg``, as far as it says it.

    Of images that are not square the shorter side is taken; a crop that keeps the borders
    (``crop_mode`` squash or border) is taken as the whole image.
    """
    said: dict[str, Any] = {}
    if config.get("input_size"):
        said["image_size"] = min(config["input_size"][1:])
    for key in ("mean", "std"):
        if config.get(key):
            said[key] = [float(value) for value in config[key]]
    if config.get("interpolation") in ("bilinear", "bicubic", "nearest", "lanczos"):
        said["interpolation"] = config["interpolation"]
    if config.get("crop_pct"):
        said["crop_pct"] = float(config["crop_pct"])
    return said
