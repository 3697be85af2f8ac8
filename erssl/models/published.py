"""Weights that timm publishes: ``timm:<name>``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from erssl.errors import ConfigError, DataError
from erssl.models.backbones import BackboneOptions, build_backbone
from erssl.models.named import possible_architectures
from erssl.models.preprocessing import from_timm_config, set_preprocessing
from erssl.models.reports import LoadReport
from erssl.models.timm_options import square_size, timm_arguments
from erssl.models.weights_files import check_finite, one_line

_TIMM = "timm:"


def is_timm_address(path: str | Path) -> bool:
    """Whether a path is ``timm:<name>``."""
    return str(path).startswith(_TIMM)


def load_published(path: str | Path, arch: str | BackboneOptions | None = None) -> nn.Module:
    """Read weights that timm publishes, from the Hugging Face Hub or the cache of what it fetched.

    Args:
        path: ``timm:<name>``, with or without the tag of the weights
            (``timm:vit_small_patch16_224.dino``), options after commas.
        arch: Must be ``None``: the name says it.

    Returns:
        The backbone as :func:`erssl.load_backbone` gives it.

    Raises:
        ConfigError: If the name is unknown, or an architecture is named beside it.
        DataError: If there are no such weights, or they cannot be fetched.
    """
    import timm
    from timm.models import get_pretrained_cfg

    name = str(path).removeprefix(_TIMM)
    if arch is not None:
        raise ConfigError(f"checkpoint={path} says its architecture itself; leave arch out.")
    options = dataclasses.replace(possible_architectures(name)[0], library="timm")
    backbone = build_backbone(options)
    config = get_pretrained_cfg(options.name)
    if config is None or not config.has_weights:
        raise DataError(f"timm publishes no weights for {options.name}; choose another name.")
    try:
        pretrained = timm.create_model(
            options.name,
            pretrained=True,
            num_classes=0,
            **timm_arguments(options.options, options.in_channels),
        )
    except Exception as error:  # the network, the hub and the disk raise nearly anything
        reason = one_line(error).partition(". ")[0][:200]
        raise DataError(
            f"The weights of {options.name} cannot be fetched ({reason}); check the network, or "
            f"give a file that was downloaded elsewhere with arch={options.name.partition('.')[0]}."
        ) from error
    state = pretrained.state_dict()
    check_finite(f"timm's {options.name}", state)
    backbone.load_state_dict(state)
    published: Any = pretrained.pretrained_cfg
    said = from_timm_config(published)
    if (size := square_size(options.options)) is not None:
        said["image_size"] = size
    set_preprocessing(backbone, said)
    report = LoadReport(f"published by timm as {options.name}", len(state), (), (), 0)
    backbone.report = report  # type: ignore[assignment]
    return backbone.eval()
