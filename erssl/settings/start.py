"""Where a run starts: from the weights that ``checkpoint=`` names, their network and images."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from torch import nn

from erssl.errors import ConfigError
from erssl.models import load_backbone, with_channels

if TYPE_CHECKING:
    from erssl.settings.pretrain_options import PretrainSettings

FROM_WEIGHTS = "the weights of checkpoint"  # the source of what they bring
_ABOUT = ("arch", "layout", "prefix", "weights", "freeze_epochs")  # say something of checkpoint=


def check_start(settings: PretrainSettings) -> None:
    """Refuse what makes no start.

    Raises:
        ConfigError: If a key is about weights that are not named, or freezes for all epochs.
    """
    if not settings.checkpoint:
        for key in _ABOUT:
            if value := getattr(settings, key):
                raise ConfigError(
                    f"{key}={value} is about the weights that a run starts from; name them with "
                    "checkpoint=<what erssl.load_backbone reads>."
                )
    if not 0 <= settings.freeze_epochs < settings.epochs:
        raise ConfigError(
            f"freeze_epochs={settings.freeze_epochs} leaves none of epochs={settings.epochs} in "
            "which the backbone is trained; set it to less."
        )


def with_start(
    settings: PretrainSettings, said: Collection[str]
) -> tuple[PretrainSettings, dict[str, str]]:
    """Settings with the architecture and the preprocessing of the weights that a run starts from.

    Args:
        settings: As they were composed.
        said: Keys that were given; of the images' preprocessing they count first.

    Returns:
        The settings, and the source of each value that came from the weights, by its dotted key.

    Raises:
        ConfigError: If a backbone is named beside the weights.
        DataError: If the weights cannot be read.
    """
    if any(key.partition(".")[0] == "backbone" for key in said):
        raise ConfigError(
            f"checkpoint={settings.checkpoint} brings a backbone of its own; leave backbone out, "
            "or say what the file is with arch=."
        )
    channels = settings.data.channels if "data.channels" in said else None
    start: Any = read_start(settings, channels)
    kept = {k: v for k, v in start.preprocessing.items() if f"data.{k}" not in said}
    kept = {"channels": start.architecture.in_channels} | kept
    if "data.channels" in said:  # the weights are adapted to them
        kept.pop("channels")
    data = dataclasses.replace(settings.data, **kept)
    own = [field.name for field in dataclasses.fields(start.architecture)]
    keys = [f"data.{key}" for key in kept] + [f"backbone.{key}" for key in own]
    keys += [f"backbone.options.{key}" for key in start.architecture.options]
    sources = dict.fromkeys(keys, FROM_WEIGHTS)
    return dataclasses.replace(settings, data=data, backbone=start.architecture), sources


def read_start(settings: PretrainSettings, channels: int | None) -> nn.Module:
    """The backbone that a run starts from.

    Args:
        settings: The run.
        channels: That its images are said to have; ``None`` for those of the weights.

    Raises:
        DataError: If it cannot be read.
    """
    backbone = load_backbone(
        str(settings.checkpoint),
        settings.arch,
        layout=settings.layout,
        prefix=settings.prefix,
        weights=settings.weights,
    )
    return backbone if channels is None else with_channels(backbone, channels)
