"""Backbones: torchvision's ResNets and its other classifiers, and any timm model.

A backbone is a plain module that gives features (N, feature_dim) and has ``feature_dim``; its
parameter names are those of its library, so that its weights fit everybody else's code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from erssl.errors import ConfigError, named
from erssl.limits import check_images, lacks_memory
from erssl.models.channels import RGB, widened_stem
from erssl.models.given import WIDTH, backbone_given
from erssl.models.timm_options import NORM_EPS, STEM_POOL, check_timm_options, timm_arguments
from erssl.models.torchvision_nets import build_torchvision, torchvision_names
from erssl.models.weights_files import one_line

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")


@dataclass(frozen=True)
class BackboneOptions:
    """What to build.

    Attributes:
        name: A torchvision classifier, most of all a ResNet (``resnet18`` to ``resnet101``), or
            any timm model name.
        library: Where the name comes from; ``lightly`` has the ResNets of its own model zoo;
            ``object`` is a module that a Python program has given.
        cifar_stem: For small images: a 3x3 convolution of stride 1 and no max-pooling in place
            of a ResNet's 7x7 stem (lightly's CIFAR benchmark).
        stem_padding: Padding of that convolution; 1 in lightly, 2 in solo-learn.
        options: Keyword arguments for ``timm.create_model``, such as ``img_size``, those of
            :data:`erssl.models.timm_options.ALLOWED`, and ``stem_pool=False`` of a timm ResNet
            without the max-pooling of its stem; of lightly's ResNets ``width`` and ``num_ftrs``.
        in_channels: Channels of its images; a run takes them from ``data.channels``.
    """

    name: str = "resnet50"
    library: Literal["torchvision", "timm", "lightly", "object"] = "torchvision"
    cifar_stem: bool = False
    stem_padding: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    in_channels: int = RGB

    @property
    def is_resnet(self) -> bool:
        """Whether it is one of torchvision's ResNets, with whatever stem."""
        return self.library == "torchvision" and self.name in RESNETS


def build_backbone(options: BackboneOptions | str) -> nn.Module:
    """Build a randomly initialised backbone.

    Args:
        options: The backbone, or the name of a torchvision ResNet.

    Returns:
        Module giving features (N, feature_dim), with the attributes ``feature_dim`` and
        ``architecture``, its options.

    Raises:
        ConfigError: If the name is unknown or an option does not fit it.
    """
    if isinstance(options, str):
        options = BackboneOptions(options)
    if options.library == "object":
        return _with_options(backbone_given(options.options.get(WIDTH)), options)
    if options.library == "timm":
        return _with_options(_timm(options), options)
    if options.library == "lightly":
        if options.in_channels != RGB:
            raise ConfigError(
                f"{options.name} is lightly's own network, which takes {RGB} channels and not "
                f"{options.in_channels}; choose another backbone, or leave data.channels out."
            )
        return _with_options(_lightly(options), options)
    if options.options:
        raise ConfigError("backbone.options is for backbone=timm only; remove it.")
    if options.name in RESNETS:
        return _with_options(widened_stem(_resnet(options), options.in_channels), options)
    if options.name not in torchvision_names():
        raise ConfigError(
            f"backbone.name={options.name} is unknown; choose one of {', '.join(RESNETS)}, "
            "backbone=torchvision backbone.name=<one of its classifiers>, or backbone=timm "
            "backbone.name=<any timm name>."
        )
    if options.cifar_stem:
        raise ConfigError("backbone.cifar_stem is for torchvision's ResNets; remove it.")
    network = widened_stem(build_torchvision(options.name), options.in_channels)
    return _with_options(network, options)


def _remedy(error: Exception, size: int, channels: int) -> str:
    if lacks_memory(error):
        return "memory does not suffice for one image; set data.image_size to less"
    if "channels" in str(error):
        return f"its images have {channels} channels, so leave backbone.options.in_chans out"
    return (
        f"a timm transformer may need backbone.options.img_size={size} or, with local views, "
        "backbone.options.dynamic_img_size=true; other networks a larger data.image_size"
    )


def check_input_size(backbone: nn.Module, image_sizes: Iterable[int], channels: int = RGB) -> None:
    """Send one image of each size through the backbone, to fail before any work is done.

    Args:
        backbone: The backbone; its state does not change.
        image_sizes: Sides of the square views, in pixels.
        channels: Of the views.

    Raises:
        ConfigError: If the backbone cannot take such an image.
    """
    training = backbone.training
    backbone.eval()
    try:
        for size in image_sizes:
            check_images("data.image_size", size, channels)
            with torch.no_grad():
                shape = tuple(backbone(torch.zeros(1, channels, size, size)).flatten(1).shape)
            if shape != (1, backbone.feature_dim):
                raise ConfigError(
                    f"The backbone gives features {shape} for an image of {size} x {size} "
                    f"pixels in place of (1, {backbone.feature_dim}); check backbone.options."
                )
    except ConfigError:
        raise
    except (AssertionError, MemoryError, RuntimeError, ValueError, TypeError) as error:
        kind = "RGB views" if channels == RGB else f"views of {channels} channels"
        raise ConfigError(
            f"The backbone cannot take {kind} of {size} x {size} pixels "
            f"({one_line(error)}); {_remedy(error, size, channels)}."
        ) from error
    finally:
        backbone.train(training)


def _with_options(backbone: nn.Module, options: BackboneOptions) -> nn.Module:
    backbone.architecture = options  # type: ignore[assignment]
    return backbone


def _resnet(options: BackboneOptions) -> nn.Module:
    import torchvision

    backbone: nn.Module = getattr(torchvision.models, options.name)()
    backbone.feature_dim = backbone.fc.in_features  # type: ignore[union-attr]
    backbone.fc = nn.Identity()
    if options.cifar_stem:
        padding = options.stem_padding
        backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=padding, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        backbone.maxpool = nn.Identity()
    return backbone


def _timm(options: BackboneOptions) -> nn.Module:
    import timm

    if options.cifar_stem:
        raise ConfigError(
            "backbone.cifar_stem is for torchvision's ResNets; remove it, or choose "
            "backbone=resnet18_cifar."
        )
    if not timm.is_model(options.name):
        close = difflib.get_close_matches(options.name, timm.list_models(), n=3)
        raise ConfigError(
            f"{options.name} is no timm model; "
            + (f"the nearest names are {', '.join(close)}." if close else "see timm.list_models().")
        )
    _check_tag(options.name)
    check_timm_options(options.options)
    eps = options.options.get(NORM_EPS)
    own = timm_arguments(options.options, options.in_channels)
    try:
        backbone: nn.Module = timm.create_model(options.name, num_classes=0, **own)
        width = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    except Exception as error:  # any option goes to any model's constructor
        raise ConfigError(
            f"backbone.options={options.options} does not fit {options.name} "
            f"({one_line(error)}); remove what the model does not take."
        ) from error
    if eps is not None:
        for module in backbone.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps
    if not options.options.get(STEM_POOL, True):
        if not isinstance(getattr(backbone, "maxpool", None), nn.MaxPool2d):
            raise ConfigError(
                f"backbone.options.{STEM_POOL}=false is for a ResNet with a max-pooling after its "
                f"stem, which {options.name} has not; remove it."
            )
        backbone.maxpool = nn.Identity()
    backbone.feature_dim = width
    return backbone


def _lightly(options: BackboneOptions) -> nn.Module:
    """The network of lightly's zoo, as its ``cli._helpers.get_model_from_config`` builds it."""
    from lightly.models import ResNetGenerator
    from lightly.models.batchnorm import get_norm_layer

    num_ftrs = options.options.get("num_ftrs", 32)
    try:
        *children, last = ResNetGenerator(options.name, options.options.get("width", 1)).children()
        backbone: nn.Module = nn.Sequential(
            get_norm_layer(3, 0),
            *children,
            nn.Conv2d(last.in_features, num_ftrs, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    except Exception as error:  # any option goes to the constructor
        raise ConfigError(
            f"backbone.name={options.name} with {options.options} is no ResNet of lightly's "
            f"({one_line(error)})."
        ) from error
    backbone.feature_dim = num_ftrs
    return backbone


def _check_tag(name: str) -> None:
    """Refuse a tag of weights (``resnet18.<tag>``) that timm does not have."""
    import timm
    from timm.models import get_pretrained_cfg

    try:
        get_pretrained_cfg(name)
    except RuntimeError as error:  # the tag is unknown
        plain, _, tag = name.partition(".")
        known = [each.partition(".")[2] for each in timm.list_pretrained(f"{plain}.*")]
        raise ConfigError(
            f"timm has no weights {tag} of {plain} but {named(filter(None, known)) or 'none'}; "
            f"name {plain} alone or with one of these tags after the dot."
        ) from error
