"""Whether weights that are finite give finite features too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from erssl.errors import DataError
from erssl.models.backbones import BackboneOptions

_USUAL = 1e4  # magnitude below which no weight of a trained network raises doubts


def require_finite_features(
    path: str | Path,
    backbone: nn.Module,
    options: BackboneOptions,
    preprocessing: Mapping[str, Any],
) -> None:
    """Try a backbone with very large weights on noise.

    Args:
        path: The file, for the message.
        backbone: In eval mode.
        options: What it was built from.
        preprocessing: With the ``image_size`` that it takes, if that is known.

    Raises:
        DataError: If its features are not finite, naming the tensor with the largest weight.
    """
    largest = {
        name: float(tensor.abs().max())
        for name, tensor in backbone.state_dict().items()
        if tensor.is_floating_point() and tensor.numel()
    }
    name = max(largest, key=largest.__getitem__, default=None)
    if name is None or largest[name] < _USUAL:
        return
    shape = _input_shape(backbone, options, preprocessing)
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        finite = bool(backbone(noise).isfinite().all())
    if not finite:
        raise DataError(
            f"{path} has weights up to {largest[name]:.1e} in {name}, with which features overflow "
            "to infinity or NaN; training had diverged, so take an earlier checkpoint."
        )


def _input_shape(
    backbone: nn.Module, options: BackboneOptions, preprocessing: Mapping[str, Any]
) -> tuple[int, int, int]:
    """Channels, height and width of an image: as asked for, or what timm says of the network."""
    timm = getattr(backbone, "default_cfg", None)
    usual = timm.get("input_size") if isinstance(timm, Mapping) else None
    _, size, _ = usual or (None, preprocessing.get("image_size", 224), None)
    size = options.options.get("img_size", size)
    height, width = (size, size) if isinstance(size, int) else size
    return options.in_channels, height, width
