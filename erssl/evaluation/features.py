"""Frozen features of a data set, the one input of every protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Features(NamedTuple):
    """Features of a split.

    Attributes:
        features: Backbone features (N, feature_dim), float32, on the CPU.
        labels: Class indices (N,).
    """

    features: Tensor
    labels: Tensor


@contextlib.contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode, and every part of it back into its own mode afterwards.

    ``module.train()`` would wake up the batch normalisations that somebody has put to rest.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@torch.no_grad()
def extract_features(
    backbone: nn.Module, loader: Iterable[Any], device: torch.device | str = "cpu"
) -> Features:
    """Pass a data set through a frozen backbone.

    The backbone runs in eval mode and is left in the mode it came in; neither its weights nor its
    running statistics change.

    Args:
        backbone: Module giving features (N, feature_dim) of images (N, 3, H, W).
        loader: Batches (images, labels, …).
        device: Where the backbone is.

    Returns:
        Features and labels in the loader's order.
    """
    dtype = next((p.dtype for p in backbone.parameters()), torch.float32)
    features, labels = [], []
    with eval_mode(backbone):
        for batch in loader:
            images, targets = batch[0], batch[1]
            output = backbone(images.to(device, dtype, non_blocking=True)).flatten(start_dim=1)
            features.append(output.float().cpu())
            labels.append(targets)
    return Features(torch.cat(features), torch.cat(labels))
