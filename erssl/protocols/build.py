"""A method from its settings."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from erssl.errors import ConfigError, DataError
from erssl.layers import flat
from erssl.limits import check_memory, lacks_memory
from erssl.methods import MultiViewMethod, get_method
from erssl.models import build_backbone, check_input_size
from erssl.settings.pretrain_options import PretrainSettings

_LARGE = 2**14  # numbers above it may make what no memory holds
_COPIES = 3  # weights, gradients, momentum


def build_method(
    settings: PretrainSettings,
    num_classes: int,
    batch_size: int,
    backbone: nn.Module | None = None,
) -> MultiViewMethod:
    """Build the method, and make sure that it and its backbone take the views.

    Args:
        settings: The run.
        num_classes: Classes of the online probe.
        batch_size: Images a step on each device.
        backbone: Whose weights it starts from; ``None`` builds a random one.

    Raises:
        ConfigError: If method, backbone and views do not fit together.
    """
    options = dict(settings.method)
    name = options.pop("name")
    views = settings.data.views
    method_class = get_method(name)
    large = any(isinstance(v, int) and v > _LARGE for v in _numbers(settings))

    def backbone_of_settings() -> nn.Module:
        return build_backbone(settings.backbone)

    if backbone is None:
        if large:
            _check_memory("backbone", backbone_of_settings)
        backbone = backbone_of_settings()
    side = settings.data.image_size
    sizes = dict.fromkeys([side, *views.every_side(side)])  # it evaluates images of the first
    check_input_size(backbone, sizes, settings.data.channels)
    if settings.optimizer.layer_decay != 1 and not hasattr(backbone, "blocks"):
        raise ConfigError(
            f"optimizer.layer_decay={settings.optimizer.layer_decay} is for vision transformers, "
            f"which have blocks, and {settings.backbone.name} has none; leave it at 1."
        )
    if views.n_local_views and not method_class.info.multi_crop:
        raise ConfigError(
            f"data.views.n_local_views={views.n_local_views} but method={name} takes "
            f"{method_class.info.views} views; set data.views.n_local_views=0."
        )
    if views.n_views < method_class.info.min_views:
        raise ConfigError(
            f"data.views.recipe={views.recipe} gives {views.n_views} view of an image but "
            f"method={name} compares {method_class.info.min_views}; choose another recipe."
        )
    for key, value in options.items():
        if "temperature" in key and isinstance(value, float | int) and not value > 0:
            raise ConfigError(f"method.{key} must be above 0 but is {value}.")
    built_on = backbone

    def make() -> MultiViewMethod:
        return method_class(
            batch_size,
            num_classes,
            backbone=built_on,
            optimizer=settings.optimizer,
            channels_last=settings.channels_last,
            compile=settings.compile,
            **options,
        )

    try:
        if large:
            _check_memory(f"method={name}", make)
        return make()
    except ConfigError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise ConfigError(
            f"method={name} needs more memory than there is; choose smaller numbers for method.*."
        ) from error
    except ValueError as error:
        raise ConfigError(f"method={name} cannot be built: {error}") from error


def check_method(
    settings: PretrainSettings, batch_size: int, backbone: nn.Module | None = None
) -> None:
    """See that method, backbone and views fit, before images are decoded, which may take long.

    Args:
        settings: The run; nothing is done where its images are not decoded before training.
        batch_size: Images a step on each device.
        backbone: As for :func:`build_method`, left as it is.

    Raises:
        ConfigError: If they do not fit.
    """
    if not getattr(settings.data, "verify", False):
        return
    with torch.random.fork_rng(devices=[]):
        build_method(settings, 2, batch_size, copy.deepcopy(backbone))


def check_images(settings: PretrainSettings, batch_size: int) -> None:
    """See that the images of a step fit in memory.

    Args:
        settings: The run.
        batch_size: Images a step on each device.

    Raises:
        ConfigError: If they do not.
    """
    views = settings.data.views
    sides = views.sides(settings.data.image_size)
    pixels = sum(side**2 for side in sides)
    need = 4 * batch_size * settings.data.channels * pixels
    check_memory(
        f"{views.size_key}={sides[0]} with {batch_size} images on a device",
        need,
        f"set {views.size_key}, batch_size or data.views.n_local_views to less",
    )


def _numbers(settings: PretrainSettings) -> Iterator[Any]:
    """Values of the keys that say how large method and backbone are."""
    groups = {"method": settings.method, "backbone": dataclasses.asdict(settings.backbone)}
    for value in flat(groups).values():
        yield from value if isinstance(value, list) else [value]


def _check_memory(what: str, make: Callable[[], nn.Module]) -> None:
    """See that what is made fits in memory with its gradients and moments, before it is made.

    Raises:
        ConfigError: If it does not.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            module = make()
        tensors = [*module.parameters(), *module.buffers()]
        if isinstance(module, MultiViewMethod):
            tensors += module.kept_tensors()
        need: float = _COPIES * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    except RuntimeError as error:  # some need values, which there are none of on "meta"
        if "overflow" not in str(error):
            return
        need = math.inf
    check_memory(what, need, f"choose smaller numbers for {what.partition('=')[0]}.*")


def trained_method(file: Path, settings: PretrainSettings) -> MultiViewMethod:
    """The method of a run as a checkpoint of it has it.

    Args:
        file: The checkpoint.
        settings: The run.

    Raises:
        DataError: If the file cannot be read, or is of another run.
    """
    try:
        state = torch.load(file, "cpu", weights_only=True)["state_dict"]
        probe = state["online_classifier.classification_head.weight"]
        method = build_method(settings, num_classes=len(probe), batch_size=2)
        method.load_state_dict(state)
    except ConfigError:
        raise
    except Exception as error:  # torch's reader raises nearly anything on damaged files
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise DataError(
            f"{file} is no checkpoint of this run ({reason}); on=features reads its backbone."
        ) from error
    return method
