"""Methods by name: ours, and those that other packages announce.

A third party registers a class with :func:`register_method` and names its module under the
entry-point group ``erssl.methods``; ``method: <name>`` then works in a config.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, TypeVar

from erssl.errors import ConfigError
from erssl.methods.base import MultiViewMethod

ENTRY_POINT_GROUP = "erssl.methods"
METHODS: dict[str, dict[str, Any]] = {}
"""``{name: {"model": class, "transform": its ImageNet views}}``, as in lightly's benchmarks."""

M = TypeVar("M", bound=type[MultiViewMethod])


def register_method(name: str, transform: Callable[..., Any] | None = None) -> Callable[[M], M]:
    """Class decorator that makes a method known as ``name``.

    Args:
        name: The name used in configs; must be free.
        transform: The method's ImageNet views, for lightly's benchmark script.

    Returns:
        The decorator, which gives the class back unchanged.

    Raises:
        ConfigError: If another class has the name already.
    """

    def decorate(method: M) -> M:
        known = METHODS.get(name)
        if known is not None and known["model"].__qualname__ != method.__qualname__:
            raise ConfigError(
                f"The method name {name!r} is taken by {known['model'].__qualname__}; "
                f"register {method.__qualname__} under another one."
            )
        METHODS[name] = {"model": method, "transform": transform}
        return method

    return decorate


def available_methods() -> list[str]:
    """Names of all methods, those of other packages included, in alphabetical order."""
    _load_entry_points()
    return sorted(METHODS)


def get_method(name: str) -> type[MultiViewMethod]:
    """Class of the method called ``name``.

    Raises:
        ConfigError: If there is none; the sentence names the nearest.
    """
    names = available_methods()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(f"method={name} is unknown{hint}; choose one of {', '.join(names)}.")
    model: type[MultiViewMethod] = METHODS[name]["model"]
    return model


def _load_entry_points() -> None:
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        entry_point.load()


@contextmanager
def given_method(method: type[MultiViewMethod]) -> Iterator[str]:
    """Let a class that no package announces be known by its own name inside.

    Raises:
        ConfigError: If it is no method, or another one has its name.
    """
    if not issubclass(method, MultiViewMethod):
        raise ConfigError(
            f"method={method.__qualname__} is no erssl.methods.MultiViewMethod; subclass it."
        )
    known = [name for name in available_methods() if METHODS[name]["model"] is method]
    if known:
        yield known[0]
        return
    name = method.__name__
    register_method(name)(method)
    try:
        yield name
    finally:
        del METHODS[name]
