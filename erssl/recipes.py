"""A method's recipe: one YAML file beside it, read by its class and by the command line alike.

A recipe holds the method's own options (``method``), and what its paper trains it by:
``optimizer``, ``backbone``, ``data.views`` and, where it has to, ``trainer``. Ours are the files of
``configs/method``. A third party that announces a module under the entry-point group
``erssl.methods`` lays ``<method>.yaml`` beside that module. None of this needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from erssl.announced import announced_file
from erssl.errors import ConfigError
from erssl.layers import (
    ConfigFile,
    Values,
    layers_of,
    leaves,
    merge_layers,
    parse_config_file,
)
from erssl.yaml_text import commented_yaml, comments_of

_SMALL_HEADS = {"projection_hidden_dim": 32, "projection_dim": 16}
NODES = ("method", "optimizer", "backbone", "data", "trainer")
T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """What a method trains by where nothing else is said.

    Attributes:
        name: The method.
        file: Its file, what it inherits named in ``defaults``.
        values: ``method``, ``optimizer``, ``backbone``, ``data.views`` and ``trainer``, what is
            inherited included.
        comments: What the files say of each value, by its dotted key.
        title: The comment at the head of its file.
    """

    name: str
    file: ConfigFile
    values: Values
    comments: Mapping[str, str]
    title: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """The method's own options, as its class takes them."""
        return {k: v for k, v in self.values["method"].items() if k != "name"}

    def options_of(self, keys: type[T]) -> T:
        """Those of the options that a class of keyword options (a ``TypedDict``) names."""
        names = get_type_hints(keys)
        chosen: Any = {k: v for k, v in self.options.items() if k in names}
        result: T = chosen
        return result

    @property
    def small_options(self) -> dict[str, Any]:
        """Options by which it is quick to try: small heads, and what ``small`` in its file says.

        Tests and benchmarks train every method with them.
        """
        heads = {key: size for key, size in _SMALL_HEADS.items() if key in self.options}
        return {**heads, **self.file.small}

    @property
    def views(self) -> dict[str, Any] | None:
        """Options of the views; ``None`` where the recipe says nothing of them."""
        views: dict[str, Any] | None = self.values.get("data", {}).get("views")
        return views

    @property
    def text(self) -> str:
        """The whole recipe as YAML, each value with its source."""
        ordered = {node: self.values[node] for node in NODES if node in self.values}
        return self.title + commented_yaml(ordered, self.comments)


REGISTERED: dict[str, Recipe] = {}
"""Recipes of methods that were registered in this process and have no file among ours."""


def read_recipe(name: str) -> Recipe:
    """The recipe of a method.

    Args:
        name: As in ``method=<name>``.

    Raises:
        ConfigError: If neither a file nor a class that was imported says it, or the file is no
            recipe.
    """
    recipe = REGISTERED.get(name) or find_recipe(name)
    if recipe is None:
        raise ConfigError(f"There is no recipe of method={name}; is its package installed?")
    return recipe


def find_recipe(name: str) -> Recipe | None:
    """The recipe that a file holds, ours or one beside an announced module; ``None`` without."""
    own = files("erssl.configs") / "method" / f"{name}.yaml"
    if own.is_file():
        return _own_recipe(name)
    file = announced_file("method", name)
    return recipe_file(name, file) if file is not None else None


def recipe_file(name: str, path: Path) -> Recipe:
    """The recipe of a method in a file of a third party.

    Raises:
        ConfigError: If it cannot be read, or holds anything else.
    """
    try:
        return recipe_from_text(name, path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"{path} is no recipe of method={name} ({reason}); see docs/methods.md for its keys."
        ) from error


def recipe_from_text(name: str, text: str) -> Recipe:
    """The recipe of a method in a YAML text that has the keys of the whole config.

    Raises:
        ValueError: If it holds other nodes than a recipe has, or another method's name.
    """
    file = parse_config_file(text)
    heads = text.partition("\n")[2] if text.startswith("# @package") else text
    title = "".join(f"{line}\n" for line in _leading_comments(heads))
    comments = comments_of(text)
    for entry in file.defaults:
        if isinstance(entry, str) and entry != "_self_":
            if entry == name:
                raise ValueError("it names itself in its defaults")
            above = read_recipe(entry)
            own = leaves(above.file.values)
            inherited = {k: f"{entry}: {c}" if k in own else c for k, c in above.comments.items()}
            comments = inherited | comments
    return _recipe(name, file, comments, title)


def recipe_from_values(name: str, values: Mapping[str, Any]) -> Recipe:
    """A recipe of plain values, for a class that has no file.

    Raises:
        ValueError: As :func:`recipe_from_text`.
    """
    content = {"method": {}, **values}
    content["method"] = {"name": name, **content["method"]}
    return _recipe(name, ConfigFile(("_self_",), content), {}, "")


def _recipe(name: str, file: ConfigFile, comments: Mapping[str, str], title: str) -> Recipe:
    values, sources = merge_layers(layers_of(f"method/{name}", {}, others={f"method/{name}": file}))
    others = [
        key
        for key in leaves(values)
        if key.partition(".")[0] not in NODES
        or (key.startswith("data.") and not key.startswith("data.views."))
    ]
    if others:
        raise ValueError(
            f"it sets {others[0]}, but a recipe sets {', '.join(NODES)} and of data only its views"
        )
    if values.get("method", {}).get("name") != name:
        raise ValueError(f"its method.name is {values.get('method', {}).get('name')}")
    kept = {key: comments[key] for key in sources if key in comments}
    return Recipe(name, file, values, kept, title)


@cache
def _own_recipe(name: str) -> Recipe:
    file = files("erssl.configs") / "method" / f"{name}.yaml"
    return recipe_from_text(name, file.read_text(encoding="utf-8"))


def _leading_comments(text: str) -> list[str]:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    return lines
