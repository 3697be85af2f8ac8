"""A backbone of RGB images for images of other channels."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from erssl.errors import ConfigError
from erssl.models.backbones import BackboneOptions, build_backbone
from erssl.models.channels import RGB, adapted_weights, of_channels
from erssl.models.preprocessing import set_preprocessing


def with_channels(backbone: nn.Module, channels: int) -> nn.Module:
    """Adapt a backbone that was read to images of so many channels.

    Args:
        backbone: What :func:`erssl.load_backbone` gives.
        channels: Of the images it is to take.

    Returns:
        The backbone itself where it takes them; else one whose first convolution is adapted from
        RGB as timm does it, with the same attributes. Channel means and deviations, which are of
        RGB, are not among its preprocessing any more; ``report`` says what was done.

    Raises:
        ConfigError: If its weights are not of RGB images, or cannot be adapted.
    """
    options: Any = getattr(backbone, "architecture", None)
    if not isinstance(options, BackboneOptions) or options.in_channels == channels:
        return backbone
    if options.in_channels != RGB or options.library == "object":
        raise ConfigError(
            f"The weights of {options.name} are for images of {options.in_channels} channels and "
            f"data.channels is {channels}; only weights of RGB images of a named architecture are "
            "adapted, so set data.channels to theirs."
        )
    made = build_backbone(dataclasses.replace(options, in_channels=channels))
    state = adapted_weights(backbone.state_dict(), made.state_dict(), channels, options.name)
    made.load_state_dict(state)
    own: Any = backbone
    set_preprocessing(made, of_channels(own.preprocessing, channels))
    change = f"first convolution adapted from {RGB} to {channels} channels, as timm does"
    report = dataclasses.replace(own.report, assumed=(*own.report.assumed, change))
    made.report = report
    return made.train(backbone.training)
