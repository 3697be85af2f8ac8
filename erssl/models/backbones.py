"""Backbones: torchvision's ResNets, any timm model, and the files they are kept in.

A backbone is a plain module that gives features (N, feature_dim) and has ``feature_dim``; its
parameter names are those of its library, so that its weights fit everybody else's code.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from erssl.errors import ConfigError, DataError

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
WEIGHTS_FILE = "backbone.safetensors"


@dataclass(frozen=True)
class BackboneOptions:
    """What to build.

    Attributes:
        name: A torchvision ResNet (``resnet18`` to ``resnet101``) or any timm model name.
        library: Where the name comes from.
        cifar_stem: For small pictures: a 3x3 convolution of stride 1 and no max-pooling in place
            of a ResNet's 7x7 stem (lightly's CIFAR benchmark; padding 1).
        options: Keyword arguments for ``timm.create_model``, such as ``img_size``.
    """

    name: str = "resnet50"
    library: Literal["torchvision", "timm"] = "torchvision"
    cifar_stem: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def build_backbone(options: BackboneOptions | str) -> nn.Module:
    """Build a randomly initialised backbone.

    Args:
        options: The backbone, or the name of a torchvision ResNet.

    Returns:
        Module giving features (N, feature_dim), with the attribute ``feature_dim``.

    Raises:
        ConfigError: If the name is unknown or an option does not fit it.
    """
    if isinstance(options, str):
        options = BackboneOptions(options)
    if options.library == "timm":
        return _timm(options)
    if options.name not in RESNETS:
        raise ConfigError(
            f"backbone.name={options.name} is unknown; choose one of {', '.join(RESNETS)}, or "
            "backbone=timm backbone.name=<any timm name>."
        )
    if options.options:
        raise ConfigError("backbone.options is for backbone=timm only; remove it.")
    return _resnet(options.name, options.cifar_stem)


def check_input_size(backbone: nn.Module, image_sizes: Iterable[int]) -> None:
    """Send one picture of each size through the backbone, to fail before any work is done.

    Args:
        backbone: The backbone; its state does not change.
        image_sizes: Sides of the square views, in pixels.

    Raises:
        ConfigError: If the backbone cannot take such a picture.
    """
    training = backbone.training
    backbone.eval()
    try:
        for size in image_sizes:
            with torch.no_grad():
                shape = tuple(backbone(torch.zeros(1, 3, size, size)).flatten(1).shape)
            if shape != (1, backbone.feature_dim):
                raise ConfigError(
                    f"The backbone gives features {shape} for a picture of {size} x {size} "
                    f"pixels in place of (1, {backbone.feature_dim}); check backbone.options."
                )
    except ConfigError:
        raise
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"The backbone cannot take RGB views of {size} x {size} pixels "
            f"({_one_line(error)}); a timm transformer may need backbone.options.img_size={size} "
            "or, with local views, backbone.options.dynamic_img_size=true."
        ) from error
    finally:
        backbone.train(training)


def save_backbone(
    backbone: nn.Module,
    path: Path,
    options: BackboneOptions,
    preprocessing: dict[str, Any] | None = None,
) -> None:
    """Write weights as safetensors with all that is needed to use them in the file's header.

    Args:
        backbone: The trained backbone.
        path: The file to write.
        options: What the backbone was built from.
        preprocessing: ``mean``, ``std``, ``image_size`` and the like of the training data.
    """
    from safetensors.torch import save_file

    state = {name: t.detach().cpu().contiguous() for name, t in backbone.state_dict().items()}
    metadata = {
        "backbone": json.dumps(asdict(options)),
        "preprocessing": json.dumps(preprocessing or {}),
    }
    partial = path.with_suffix(".partial")
    save_file(state, partial, metadata=metadata)
    partial.replace(path)


def load_backbone(path: str | Path) -> nn.Module:
    """Read the backbone of a run directory or of a ``backbone.safetensors`` file.

    Args:
        path: Run directory of ``erssl pretrain``, or the weights file in it.

    Returns:
        The backbone in eval mode, giving features (N, feature_dim), with the attributes
        ``feature_dim`` and ``preprocessing`` (``mean``, ``std``, ``image_size``).

    Raises:
        DataError: If there is no such file, or it was not written by :func:`save_backbone`.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"There are no backbone weights at {file}; give a finished run directory or its "
            f"{WEIGHTS_FILE}."
        )
    try:
        with safe_open(file, framework="pt") as weights:
            metadata = weights.metadata() or {}
            state = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{file} is not a readable safetensors file ({error}); give a finished run directory."
        ) from error
    if "backbone" not in metadata:
        raise DataError(
            f"{file} does not say which backbone it holds; give the {WEIGHTS_FILE} of a run of "
            "erssl pretrain."
        )
    try:
        backbone = build_backbone(BackboneOptions(**json.loads(metadata["backbone"])))
        preprocessing = json.loads(metadata["preprocessing"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"The header of {file} is damaged ({_one_line(error)}).") from error
    expected = {name: t.shape for name, t in backbone.state_dict().items()}
    matched = [name for name, t in state.items() if expected.get(name) == t.shape]
    if len(matched) < len(expected) or len(state) > len(matched):
        raise DataError(
            f"{file} does not fit the backbone that it names: {len(matched)} weights match, "
            f"{len(expected) - len(matched)} are missing and {len(state) - len(matched)} are "
            "unexpected."
        )
    backbone.load_state_dict(state)
    backbone.preprocessing = preprocessing
    return backbone.eval()


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")


def _resnet(name: str, cifar_stem: bool) -> nn.Module:
    import torchvision

    backbone: nn.Module = getattr(torchvision.models, name)()
    backbone.feature_dim = backbone.fc.in_features  # type: ignore[union-attr]
    backbone.fc = nn.Identity()
    if cifar_stem:
        backbone.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
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
            f"backbone.name={options.name} is no timm model; "
            + (f"the nearest names are {', '.join(close)}." if close else "see timm.list_models().")
        )
    try:
        backbone: nn.Module = timm.create_model(options.name, num_classes=0, **options.options)
        width = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    except Exception as error:  # any option goes to any model's constructor
        raise ConfigError(
            f"backbone.options={options.options} does not fit {options.name} "
            f"({_one_line(error)}); remove what the model does not take."
        ) from error
    backbone.feature_dim = width
    return backbone
