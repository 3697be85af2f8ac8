"""Backbones of other images than RGB: their first convolution, and weights of RGB adapted to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from erssl.errors import ConfigError

RGB = 3
#: Names of the first convolution's weights in ResNets and in vision transformers.
_STEMS = ("conv1.weight", "patch_embed.proj.weight", "conv_proj.weight")


def widened_stem(network: nn.Module, channels: int) -> nn.Module:
    """Give a network of RGB images a first convolution of so many channels.

    Args:
        network: One of torchvision's, which have no option for it; changed in place.
        channels: Of its images; 3 leaves it as it is.

    Returns:
        The network; the new convolution is initialised as torchvision does a ResNet's (Kaiming's
        normal distribution by the outgoing connections).

    Raises:
        ConfigError: If its first convolution does not take three channels.
    """
    if channels == RGB:
        return network
    convolutions = ((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    name, first = next(convolutions, ("", None))
    if first is None or first.in_channels != RGB or first.groups != 1:
        raise ConfigError(
            f"{type(network).__name__} does not begin with a convolution of {RGB} channels that "
            f"could take {channels}; choose another backbone, or leave data.channels out."
        )
    new = nn.Conv2d(
        channels,
        first.out_channels,
        (first.kernel_size[0], first.kernel_size[1]),
        (first.stride[0], first.stride[1]),
        first.padding if isinstance(first.padding, str) else tuple(first.padding),  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, new)
    return network


def channels_of(state: Mapping[str, Tensor]) -> int:
    """Channels of the images of a ResNet or a vision transformer, by its first convolution."""
    stem = next((state[name] for name in _STEMS if name in state), None)
    return RGB if stem is None or stem.ndim != 4 else int(stem.shape[1])


def of_channels(preprocessing: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Preprocessing of images of so many channels: without the statistics of other ones."""
    said = dict(preprocessing)
    for key in ("mean", "std"):
        if len(said.get(key, ())) != channels:
            said.pop(key, None)
    return said | {"channels": channels}


def adapted_weights(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], channels: int, name: str
) -> dict[str, Tensor]:
    """Weights of an RGB network for one of the same architecture and other channels.

    Convolutions of the images become those of timm's ``adapt_input_conv``: summed over the three
    channels for one, else repeated over the channels and scaled by 3 / channels.

    Args:
        state: Of the RGB network.
        expected: Names and shapes of the other one.
        channels: Of its images.
        name: Of the architecture, for the error.

    Raises:
        ConfigError: If more than convolutions of the images differ.
    """
    from timm.models import adapt_input_conv

    adapted = {}
    for key, weights in state.items():
        wanted = expected[key].shape
        adapted[key] = weights
        if weights.shape != wanted:
            try:
                adapted[key] = adapt_input_conv(channels, weights)
            except (NotImplementedError, AssertionError):
                wanted = weights.shape[:0]  # said below
        if adapted[key].shape != wanted:
            raise ConfigError(
                f"The weights {key} of {name} cannot be adapted from {RGB} to {channels} channels; "
                "choose another backbone, or leave data.channels out."
            )
    return adapted
