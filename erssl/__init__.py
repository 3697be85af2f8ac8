"""Information-theoretic self-supervised learning beside lightly.

Sub-packages load on first use, so that ``import erssl`` stays quick: ``erssl.entropy`` holds the
information quantities, ``erssl.loss`` the losses built from them, ``erssl.methods`` the methods.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_backbone"]

_SUBPACKAGES = (
    *("callbacks", "data", "downstream", "entropy", "evaluation", "loss", "methods", "models"),
)


def __getattr__(name: str) -> Any:
    if name == "load_backbone":
        from erssl.models import load_backbone

        return load_backbone
    if name in _SUBPACKAGES:
        return importlib.import_module(f"erssl.{name}")
    raise AttributeError(f"module 'erssl' has no attribute {name!r}")
