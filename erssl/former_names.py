"""Public names of earlier builds: they keep working, with a warning that names today's."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import Any


def former(package: str, name: str, today: Mapping[str, str]) -> Any:
    """Give what had another name in an earlier build; for a package's ``__getattr__``.

    Args:
        package: The package that is asked for a name.
        name: The name.
        today: Dotted names of today by the former ones, such as ``erssl.data.ImageDataset``.

    Raises:
        AttributeError: If it never was a name of the package.
    """
    if name not in today:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    module, _, own = today[name].rpartition(".")
    warnings.warn(
        f"{package}.{name} is called {today[name]} now; the former name will go.",
        FutureWarning,
        stacklevel=3,
    )
    return getattr(importlib.import_module(module), own)
