"""The names of overrides, checked before torch is imported.

What an option takes is said by the signature that reads it; to ask a signature is to import torch,
which takes seconds. Names are known without: they stand in the YAML files, in the recipes and, as
the fields of a class, in its source. What is in none of them is refused here, at once. Whatever
passes is checked again, with its value, by those who read it; so is a name that another package may
have brought.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from erssl.announced import ENTRY_POINT_GROUPS, announces
from erssl.errors import ConfigError
from erssl.layers import merge_layers
from erssl.paths import user_path
from erssl.settings.arguments import MULTIRUN, is_setting, launcher_overrides
from erssl.settings.compose import (
    FREE,
    PRETRAIN_GROUPS,
    Schema,
    config_layers,
    hint_of,
    option_of,
    own_options,
    split_override,
)
from erssl.settings.keys import (
    LENS_KEYS,
    OWN_TRAINER_KEYS,
    WITH_FOLDERS,
    command_keys,
    takes_data,
)

Pairs = list[tuple[str, str]]

_PACKAGE = Path(__file__).parent.parent
_CONFIGS = files("erssl.configs")
_WITH_PLACES = ("lens", "report", "study")  # commands that take more than overrides


def check_names(command: str, arguments: Sequence[str]) -> None:
    """Refuse arguments that name what there is not.

    Args:
        command: Such as ``pretrain``.
        arguments: What follows it on the command line.

    Raises:
        ConfigError: If a key is unknown, or the option that is chosen of a group.
    """
    if command == "zoo":  # which takes names of files
        return
    flags = {*MULTIRUN, *launcher_overrides(arguments)}
    overrides = [argument for argument in arguments if argument not in flags]
    if command in _WITH_PLACES:
        overrides = [override for override in overrides if is_setting(override)]
    if command == "methods":
        overrides = [f"method={name}" for name in overrides if "=" not in name]
    several = command == "pretrain" and not set(arguments).isdisjoint(MULTIRUN)
    pairs = [split_override(override, command) for override in overrides]
    groups = _groups(command)
    choices = [(key, value) for key, value in pairs if key in groups]
    if several:
        choices = [(key, each) for key, value in choices for each in value.split(",")]
    for key, value in choices:
        folder = command in WITH_FOLDERS and key == "data" and user_path(value).is_dir()
        if not folder:
            _check_option(key, value, groups[key])
    schema = _schema(command, choices)
    for key, value in pairs:
        method, _, option = key.partition(".")
        if several and option and method in own_options("method"):  # of that one's runs alone
            _check_key(f"method.{option}", value, _pretraining([("method", method)]))
        elif key not in groups:
            _check_key(key, value, schema)


def _check_option(key: str, value: str, group: str) -> None:
    if value not in own_options(group) and not _others_announced():
        option_of(key, value, group)


def _check_key(key: str, value: str, schema: Schema) -> None:
    try:
        hint_of(key, schema, value)
    except ConfigError:
        if not _others_announced():
            raise


def _others_announced() -> bool:
    """Whether another package may have brought methods, data sets or views; it is not imported."""
    return any(announces(group) for group in ENTRY_POINT_GROUPS)


def _groups(command: str) -> Mapping[str, str]:
    """Keys that choose an option of a group, and the group's folder."""
    if command in ("pretrain", "study"):
        return PRETRAIN_GROUPS
    if command == "methods":
        return {"method": "method"}
    groups = {"data": "data"} if takes_data(command) else {}
    if (_CONFIGS / "preset" / command).is_dir():
        groups["preset"] = f"preset/{command}"
    return groups


def _schema(command: str, choices: Pairs) -> Schema:
    """The keys of a command; what each takes is not known here."""
    if command == "pretrain":
        return _pretraining(choices)
    if command in ("export", "report", "methods"):
        return dict.fromkeys(command_keys(command), Any)
    pretraining = _pretraining([])
    if command == "lens":
        shared = {key: pretraining[key] for key in ("data", "lens", "seed")}
        return dict.fromkeys(LENS_KEYS, Any) | shared
    own = _open(merge_layers(config_layers(command, {}))[0])
    if command == "study":
        return pretraining | {"method": FREE, "transfer": FREE} | own
    if "trainer" in own:
        own["trainer"] = pretraining["trainer"]
    if takes_data(command):
        own["data"] = pretraining["data"]
    return own


def _pretraining(choices: Pairs) -> Schema:
    """The keys of a pretraining, those of the method among them that is chosen, or of several."""
    chosen: dict[str, list[str | None]] = {"method": [], "experiment": []}
    for key, value in choices:
        if key in chosen and value in own_options(key):
            chosen[key].append(value)
    schema: Schema = {}
    method: Schema = {}
    for names in product(*(names or [None] for names in chosen.values())):
        said = {key: name for key, name in zip(chosen, names, strict=True) if name is not None}
        config = merge_layers(config_layers("pretrain", said))[0]
        schema |= _open(config)
        method |= dict.fromkeys(config["method"], Any)
    return schema | {
        "method": method,
        "data": _fields("data", "DataOptions") | {"views": _fields("data", "ViewOptions")},
        "backbone": _fields("models", "BackboneOptions"),
        "optimizer": _fields("methods", "OptimizerOptions"),
        "evaluation": _fields("settings", "EvaluationOptions") | {"probes": FREE},
        "lens": _fields("settings", "LensOptions"),
        "trainer": _trainer(),
    }


def _open(config: Mapping[str, Any]) -> Schema:
    """The keys of a config; an empty node holds what others check, such as logger_options."""
    return {key: FREE if value == {} else Any for key, value in config.items()}


@cache
def _fields(folder: str, name: str) -> Schema:
    """Fields of a class and of those below it, such as the options of single data sets."""
    classes: dict[str, ast.ClassDef] = {}
    for file in (_PACKAGE / folder).rglob("*.py"):
        classes |= _classes(file)
    names, count = {name}, 0
    while len(names) > count:
        count = len(names)
        names |= {c for c, node in classes.items() if names & {ast.unparse(b) for b in node.bases}}
    fields: Schema = {}
    for each in names & classes.keys():
        for statement in classes[each].body:
            if isinstance(statement, ast.AnnAssign) and "ClassVar" not in ast.unparse(statement):
                named = ast.unparse(statement.annotation).startswith("dict[")  # others check them
                fields[ast.unparse(statement.target)] = FREE if named else Any
    return fields


@cache
def _trainer() -> Any:
    """What Lightning's ``Trainer`` takes, but for what is our own to say."""
    lightning = find_spec("pytorch_lightning")
    for folder in (lightning and lightning.submodule_search_locations) or ():
        trainer = _classes(Path(folder, "trainer", "trainer.py")).get("Trainer")
        for statement in trainer.body if trainer else ():
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                names = [argument.arg for argument in statement.args.kwonlyargs]
                return {name: Any for name in names if name not in OWN_TRAINER_KEYS}
    return FREE


def _classes(file: Path) -> dict[str, ast.ClassDef]:
    """The classes in a source file by name; none where there is no such file."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    nodes: Iterable[ast.stmt] = ast.parse(text).body
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
