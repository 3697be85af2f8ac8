"""Backbones that a Python program gives as modules, in place of names."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import nn

from erssl.errors import ConfigError

_GIVEN: ContextVar[nn.Module | None] = ContextVar("given_backbone", default=None)
WIDTH = "feature_dim"
WIDTH_KEY = f"backbone.options.{WIDTH}"  # where a run keeps the width of a module without one
_WIDTHS = ("feature_dim", "num_features", "embed_dim")  # ours, and what timm and others call it


@contextmanager
def given_backbone(backbone: nn.Module | None, feature_dim: int | None = None) -> Iterator[None]:
    """Let ``backbone=object`` stand for copies of this module inside.

    Args:
        backbone: Gives features (N, feature_dim) of images; it stays as it is.
        feature_dim: Width of its features, where it has no attribute that says so.
    """
    if backbone is not None:
        backbone = copy.deepcopy(backbone)
        if feature_dim is not None:
            backbone.feature_dim = feature_dim  # type: ignore[assignment]
    token = _GIVEN.set(backbone)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def backbone_given(feature_dim: int | None = None) -> nn.Module:
    """A copy of the module that ``backbone=object`` stands for.

    Args:
        feature_dim: Width of its features as its run kept it, for a module that does not say it.

    Raises:
        ConfigError: If none was given, or nothing says how wide its features are.
    """
    backbone = _GIVEN.get()
    if backbone is None:
        raise ConfigError(
            "backbone=object is a module that a Python program gave; give it again, as in "
            "erssl.load_backbone(path, arch=<the module>) or erssl.knn(path, backbone=<it>)."
        )
    backbone = copy.deepcopy(backbone)
    backbone.feature_dim = _width(backbone, feature_dim)  # type: ignore[assignment]
    return backbone


def _width(backbone: nn.Module, kept: int | None) -> int:
    for name in _WIDTHS:
        width = getattr(backbone, name, None)
        if isinstance(width, int):
            return width
    if kept is not None:
        return kept
    raise ConfigError(
        f"backbone={type(backbone).__name__} has none of the attributes {', '.join(_WIDTHS)}; give "
        "feature_dim=<the width of its output>."
    )
