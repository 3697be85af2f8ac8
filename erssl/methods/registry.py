"""Methods by name: ours, and those that other packages announce.

A third party registers a class with :func:`register_method` and names its module under the
entry-point group ``erssl.methods``; ``method: <name>`` then works in a config. What it trains by is
said in ``<name>.yaml`` beside that module (:mod:`erssl.recipes`).
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from lightly.transforms.utils import IMAGENET_NORMALIZE

from erssl.announced import load_announced
from erssl.data import ViewOptions, build_views
from erssl.errors import ConfigError
from erssl.methods.base import MultiViewMethod
from erssl.methods.optimizer import OptimizerOptions
from erssl.models import BackboneOptions
from erssl.recipes import (
    REGISTERED,
    Recipe,
    find_recipe,
    recipe_file,
    recipe_from_values,
)

METHODS: dict[str, dict[str, Any]] = {}
"""``{name: {"model": class, "transform": its ImageNet views}}``, as in lightly's benchmarks."""

M = TypeVar("M", bound=type[MultiViewMethod])
Options = TypeVar("Options", OptimizerOptions, BackboneOptions, ViewOptions)


def register_method(
    name: str,
    transform: Callable[..., Any] | None = None,
    recipe: str | Path | Mapping[str, Any] | None = None,
) -> Callable[[M], M]:
    """Class decorator that makes a method known as ``name``, and gives it its recipe.

    Args:
        name: The name used in configs; must be free.
        transform: The method's ImageNet views, for lightly's benchmark script; ``None`` for those
            of the recipe.
        recipe: A YAML file, or its content; ``None`` for ``<name>.yaml`` beside the class, and
            without such a file for what the class says in ``default_optimizer``,
            ``default_backbone`` and ``default_views``.

    Returns:
        The decorator, which gives the class back unchanged.

    Raises:
        ConfigError: If another class has the name already, or the recipe cannot be read.
    """

    def decorate(method: M) -> M:
        known = METHODS.get(name)
        if known is not None and known["model"].__qualname__ != method.__qualname__:
            raise ConfigError(
                f"The method name {name!r} is taken by {known['model'].__qualname__}; "
                f"register {method.__qualname__} under another one."
            )
        own = _apply_recipe(name, method, recipe)
        views = transform
        if views is None and own.views is not None:
            views = build_views(ViewOptions(**own.views), 224, **IMAGENET_NORMALIZE)
        METHODS[name] = {"model": method, "transform": views}
        return method

    return decorate


def _apply_recipe(
    name: str, method: type[MultiViewMethod], given: str | Path | Mapping[str, Any] | None
) -> Recipe:
    """Find the method's recipe and set the class's defaults by it."""
    if isinstance(given, Mapping):
        recipe: Recipe | None = recipe_from_values(name, given)
    elif given is not None:
        recipe = recipe_file(name, Path(given))
    else:
        recipe = find_recipe(name) or _beside(name, method)
    if recipe is None:
        recipe = recipe_from_values(name, _said_by(method))
    if find_recipe(name) is None or given is not None:
        REGISTERED[name] = recipe
    values = recipe.values
    if "optimizer" in values:
        method.default_optimizer = _options(
            OptimizerOptions, name, "optimizer", values["optimizer"]
        )
    if "backbone" in values:
        method.default_backbone = _options(BackboneOptions, name, "backbone", values["backbone"])
    if recipe.views is not None:
        method.default_views = _options(ViewOptions, name, "data.views", recipe.views)
    start, end = method.default_momentum
    options = recipe.options
    method.default_momentum = (
        options.get("momentum_start", start),
        options.get("momentum_end", end),
    )
    return recipe


def _options(kind: type[Options], name: str, node: str, values: Mapping[str, Any]) -> Options:
    """A node of a recipe as the options that it sets.

    Raises:
        ConfigError: If there is no such option, or a value is none that it takes.
    """
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {node}.{close[0]}?" if close else "."
            raise ConfigError(
                f"The recipe of method={name} sets {node}.{key}, which does not exist{hint} Choose "
                f"from: {', '.join(known)}."
            )
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The recipe of method={name} does not fit: {error}") from error


def _beside(name: str, method: type[MultiViewMethod]) -> Recipe | None:
    module = getattr(sys.modules.get(method.__module__), "__file__", None)
    file = Path(module or "").with_name(f"{name}.yaml") if module else None
    return recipe_file(name, file) if file is not None and file.is_file() else None


def _said_by(method: type[MultiViewMethod]) -> dict[str, Any]:
    """What a class without a recipe trains by."""
    said: dict[str, Any] = {
        "optimizer": asdict(method.default_optimizer),
        "backbone": asdict(method.default_backbone),
    }
    if method.default_views is not None:
        said["data"] = {"views": asdict(method.default_views)}
    return said


def available_methods() -> list[str]:
    """Names of all methods, those of other packages included, in alphabetical order."""
    load_announced("method")
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
        REGISTERED.pop(name, None)
