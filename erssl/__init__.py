"""Information-theoretic self-supervised learning beside lightly.

Sub-packages load on first use, so that ``import erssl`` stays quick: ``erssl.entropy`` holds the
information quantities, ``erssl.loss`` the losses built from them, ``erssl.methods`` the
methods. The commands are functions too: ``erssl.pretrain``, ``erssl.knn`` and so on, see
:mod:`erssl.commands`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erssl.commands import (
        compare,
        detect,
        embed,
        export,
        finetune,
        knn,
        lens,
        linear,
        predict,
        pretrain,
        report,
        segment,
        semi,
        study,
        transfer,
    )
    from erssl.models import load_backbone

__version__ = "0.1.0"

_SUBPACKAGES = (
    "callbacks",
    "data",
    "downstream",
    "entropy",
    "evaluation",
    "loss",
    "methods",
    "models",
)
__all__ = [
    "__version__",
    "compare",
    "detect",
    "embed",
    "export",
    "finetune",
    "knn",
    "lens",
    "linear",
    "load_backbone",
    "predict",
    "pretrain",
    "report",
    "segment",
    "semi",
    "study",
    "transfer",
]


def _find_beside_checkout() -> None:
    """Find ``erssl.configs`` and ``erssl.downstream``, which a checkout has beside this folder.

    An installation has them inside. Python that starts in a checkout takes the checkout's
    ``erssl``, wherever another one is installed.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    for name in ("configs", "downstream"):
        module = f"{__name__}.{name}"
        file = os.path.join(os.path.dirname(here), name, "__init__.py")
        if not os.path.isdir(os.path.join(here, name)) and os.path.isfile(file):
            spec: Any = importlib.util.spec_from_file_location(module, file)
            sys.modules[module] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[module])
            globals()[name] = sys.modules[module]


_find_beside_checkout()


def __getattr__(name: str) -> Any:
    if name == "load_backbone":
        from erssl.models import load_backbone

        return load_backbone
    if name in __all__:  # the commands
        return getattr(importlib.import_module("erssl.commands"), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"erssl.{name}")
    if not name.startswith("_"):  # an evaluation that nothing lists
        from erssl.settings.commands import evaluations

        if name in evaluations():
            return getattr(importlib.import_module("erssl.commands"), name)
    raise AttributeError(f"module 'erssl' has no attribute {name!r}")


def __dir__() -> list[str]:
    from erssl.settings.commands import evaluations

    return sorted({*__all__, *_SUBPACKAGES, *evaluations()})
