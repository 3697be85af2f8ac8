"""From overrides on the command line to checked options, before any work is done.

The YAML files are layers (:mod:`erssl.layers`); what may stand in them is decided by the
dataclasses and signatures that read them, so that a key which nothing reads, or a value of the
wrong kind, is refused by name. hydra's grammar reads the values of overrides.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from erssl.announced import announces
from erssl.errors import ConfigError
from erssl.layers import (
    ConfigFile,
    Layer,
    Values,
    layers_of,
    merge_layers,
    nested,
    option_layer,
    read_config_file,
)
from erssl.recipes import REGISTERED, Recipe, find_recipe, read_recipe
from erssl.settings.arguments import names_several
from erssl.settings.hints import nearest, not_a_setting, not_fitting, unknown_key, unknown_option
from erssl.settings.keys import folder_key

Schema = dict[str, Any]
"""Valid keys of a node and what each takes: a type annotation, or a schema for a nested node."""

GROUPS = ("method", "data", "backbone", "optimizer", "trainer", "experiment")
# Where the options of a group are registered that have no file among ours.
_REGISTRIES = {
    "method": ("erssl.methods.registry", "available_methods"),
    "data": ("erssl.data.registry", "available_datasets"),
}
PRETRAIN_GROUPS = {group: group for group in GROUPS}
FREE: Any = object()  # a node whose keys somebody else checks


def compose_config(
    config_name: str,
    overrides: list[str],
    schema_of: Callable[[Mapping[str, Any]], Schema],
    groups: Mapping[str, str] = PRETRAIN_GROUPS,
) -> dict[str, Any]:
    """Compose a config from its YAML files and overrides; see :func:`compose_sources`."""
    return compose_sources(config_name, overrides, schema_of, groups)[0]


def compose_sources(
    config_name: str,
    overrides: list[str],
    schema_of: Callable[[Mapping[str, Any]], Schema],
    groups: Mapping[str, str] = PRETRAIN_GROUPS,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Compose a config from its YAML files and overrides, and check every key and value.

    From the top: overrides, the experiment, the data set, the method's recipe, what nobody says
    otherwise. A group that an override chooses (``optimizer=adamw``) lies over the experiment, but
    for ``method`` and ``data``, which take the place of the experiment's.

    Args:
        config_name: The YAML file without its ending.
        overrides: Texts such as ``method=mveb`` or ``optimizer.base_lr=0.3``.
        schema_of: Gives the schema of a composed config; it depends on the chosen method.
        groups: Keys that choose a YAML file, and the folder of ``configs`` that each chooses from.

    Returns:
        Nested dictionary of plain values, and where each comes from by its dotted key.

    Raises:
        ConfigError: If an override is not ``key=value``, or a key or value is unknown.
    """
    pairs = [split_override(override, config_name) for override in overrides]
    chosen = {groups[key]: option_of(key, v, groups[key]) for key, v in pairs if key in groups}
    layers = config_layers(config_name, chosen)
    schema = schema_of(_resolved(merge_layers(layers)[0]))
    said: Values = {}
    for key, value in pairs:
        if key in groups:
            continue
        content: Any = value  # of a key that has a group's name but is none here
        if key not in GROUPS or key not in schema:
            _check_name(key, value, pairs)
            content = override_value(key, value, _takes_text(hint_of(key, schema, value)))
        said = merge_layers([Layer("", said), Layer("", nested(key, content), renewed=())])[0]
    layers.append(Layer("override", said, renewed=("data.views",)))
    values, sources = merge_layers(layers)
    config = _resolved(values)
    check_values(config, schema)
    return config, sources


def recipe_of(name: str) -> Recipe:
    """The recipe of any method; a class is imported only where no file holds its recipe.

    Raises:
        ConfigError: If there is no such method.
    """
    if name not in REGISTERED and find_recipe(name) is None:
        from erssl.methods import get_method

        get_method(name)
    return read_recipe(name)


def config_layers(config_name: str, chosen: Mapping[str, str | None]) -> list[Layer]:
    """The layers below the overrides of single keys.

    Args:
        config_name: As for :func:`compose_sources`.
        chosen: Options of groups that are taken in place of those in the files.
    """
    choices = dict(chosen)
    inner = [f"experiment/{choices['experiment']}"] if choices.get("experiment") else []
    while inner:  # an experiment chooses what the command line does not
        file = read_config_file(inner.pop())
        for group, option in file.overrides.items():
            choices.setdefault(group, option)
        inner += [f"experiment/{e}" for e in file.defaults if isinstance(e, str) and e != "_self_"]
    others: dict[str, ConfigFile] = {}
    if method := choices.get("method"):
        others[f"method/{method}"] = recipe_of(method).file
    layers = layers_of(config_name, choices, others=others)
    for group in ("backbone", "optimizer"):
        if chosen_option := chosen.get(group):
            layers.append(option_layer(group, chosen_option, f"override {group}={chosen_option}"))
    return layers


def override_value(key: str, value: str, text: bool) -> Any:
    """The value of an override: a text as it stands, else by hydra's grammar."""
    if text and value != "null":
        return value  # hydra's grammar refuses many folder names
    try:
        override = OverridesParser.create().parse_override(f"++{key}={value}")
    except HydraException as error:
        reason = " ".join(str(error).split()).partition(" See https")[0]
        raise ConfigError(f"The settings cannot be read ({reason}); see --help.") from error
    if override.is_sweep_override():
        raise ConfigError(names_several(key, value))
    return override.value()


def _resolved(values: Values) -> dict[str, Any]:
    """Plain values, interpolations such as ``${oc.env:HOME}`` replaced."""
    try:
        return OmegaConf.to_container(OmegaConf.create(values), resolve=True)  # type: ignore[return-value]
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The settings cannot be read ({reason}); see --help.") from error


def own_options(group: str) -> set[str]:
    """Names of a config group that have a file among ours."""
    folder = files("erssl.configs").joinpath(*group.split("/"))
    return {f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")}


def group_options(group: str) -> list[str]:
    """Names that may be chosen for a config group, such as the methods for ``method``."""
    names = own_options(group)
    # each of our own has a file; to ask a registry takes seconds, for torch has to be there
    if group in _REGISTRIES:
        module, available = _REGISTRIES[group]
        if module in sys.modules or announces(group):
            names.update(getattr(importlib.import_module(module), available)())
    return sorted(names)


def schema_from(reader: Callable[..., Any], without: Iterable[str] = ()) -> Schema:
    """Keys that a function, class or dataclass takes, nested dataclasses as nested schemas."""
    function = reader.__init__ if inspect.isclass(reader) else reader
    # of a dataclass each class of its line is read with the names of its own module
    hints = get_type_hints(reader if dataclasses.is_dataclass(reader) else function)
    schema: Schema = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self" or name in without:
            continue
        hint = hints.get(name, Any)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            options = next((a for a in (*get_args(hint), hint) if is_typeddict(a)), None)
            extra = get_type_hints(options) if options else {}
            schema.update({key: value for key, value in extra.items() if key not in without})
        elif dataclasses.is_dataclass(hint):
            schema[name] = schema_from(hint)  # type: ignore[arg-type]
        else:
            schema[name] = hint
    return schema


def leaves(schema: Mapping[str, Any], where: str = "") -> list[str]:
    """All keys of a schema, dotted, groups among them."""
    keys = []
    for name, node in schema.items():
        keys.append(f"{where}{name}")
        if isinstance(node, dict):
            keys += leaves(node, f"{where}{name}.")
    return keys


def split_override(override: str, config_name: str = "pretrain") -> tuple[str, str]:
    """Key and value of an override.

    Raises:
        ConfigError: If it is not ``key=value``.
    """
    key, sign, value = override.partition("=")
    if not sign or not key or key.startswith(("+", "~", "-")):
        raise ConfigError(not_a_setting(override, folder_key(config_name)))
    return key, value


def option_of(key: str, value: str, group: str) -> str | None:
    """The option that an override chooses of a group; ``None`` for no experiment.

    Raises:
        ConfigError: If there is no such option, or several are named.
    """
    options = group_options(group)
    if value in options:
        return value
    if value == "null" and group == "experiment":
        return None
    if "," in value and set(value.split(",")) <= set(options) and group == key:
        raise ConfigError(names_several(key, value))
    raise ConfigError(unknown_option(key, value, options))


def _check_name(key: str, value: str, pairs: list[tuple[str, str]]) -> None:
    """Refuse ``method.name=simclr``, which would leave the other keys those of another choice."""
    group, _, rest = key.partition(".")
    libraries = {("backbone", "timm"), ("backbone", "torchvision")}
    free = group == "backbone" and not libraries.isdisjoint(pairs)
    if rest == "name" and group in GROUPS and not free:
        way = "backbone=timm backbone.name=" if group == "backbone" else f"{group}="
        raise ConfigError(f"{key}={value} keeps the keys of another choice; write {way}{value}.")


def _takes_text(hint: Any) -> bool:
    return hint is str or (str in get_args(hint) and set(get_args(hint)) <= {str, type(None)})


def hint_of(key: str, schema: Schema, given: str = "") -> Any:
    """What a key takes.

    Raises:
        ConfigError: If nothing reads it.
    """
    node: Any = schema
    path: list[str] = []
    for part in key.split("."):
        if node is FREE:
            return FREE
        if not isinstance(node, dict) or part not in node:
            where = ".".join(path)
            names = node if isinstance(node, dict) else {}
            valid = [f"{where}.{name}" if where else name for name in names] or [where]
            raise ConfigError(unknown_key(key, valid, leaves(schema), given))
        node = node[part]
        path.append(part)
    return node


def check_values(config: Mapping[str, Any], schema: Schema, where: str = "") -> None:
    """Refuse keys that nothing reads and values of the wrong kind, by name."""
    for name, value in config.items():
        key = f"{where}{name}"
        if name not in schema:
            raise ConfigError(
                f"The key {key} is unknown; {nearest(key, [f'{where}{n}' for n in schema])}"
            )
        expected = schema[name]
        if expected is FREE:
            continue
        if isinstance(expected, dict):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{key}={value} is a value but {key} is a group of keys.")
            check_values(value, expected, f"{key}.")
        elif not _fits(value, expected):
            shown = "null" if value is None else value
            bounds = ""
            if any(map(_is_infinite, value if isinstance(value, list) else [value])):
                bounds = ", finite each" if isinstance(value, list) else " that is finite"
            elif isinstance(value, int) and abs(value) >= _LARGEST:
                shown, bounds = f"{str(value)[:20]}…", " of at most 64 bits"
            raise ConfigError(
                f"{key}={shown} does not fit; it must be {_describe(expected)}{bounds}."
                f"{not_fitting(key, value)}"
            )


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in args and type(value) in {type(a) for a in args}
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is tuple and args and args[-1] is not Ellipsis:
        return (
            isinstance(value, list)
            and len(value) == len(args)
            and all(_fits(v, a) for v, a in zip(value, args, strict=True))
        )
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return isinstance(value, list) and all(_fits(v, args[0]) for v in value)
    if hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and abs(value) <= sys.float_info.max
    if hint is int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and abs(value) < _LARGEST
    if hint is None or hint is type(None):
        return value is None
    if hint is Any:
        return True
    return isinstance(hint, type) and isinstance(value, hint)


_LARGEST = 2**63  # torch and numpy hold no larger whole number


def _is_infinite(value: Any) -> bool:
    """Whether a value is infinite or NaN."""
    return isinstance(value, float) and not math.isfinite(value)


_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}


def _describe(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(a) for a in args))
    if hint is None or hint is type(None):
        return "null"
    if origin is not None:
        return f"a list like [{', '.join(_KINDS.get(a, '…') for a in args if a is not Ellipsis)}]"
    return _KINDS.get(hint, getattr(hint, "__name__", str(hint)))
