"""From words on the command line to checked options, before any work is done.

hydra composes the YAML files; what may stand in them is decided by the dataclasses and signatures
that read them, so that a key which nothing reads, or a value of the wrong kind, is refused by name.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from importlib.resources import files
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from erssl.errors import ConfigError

T = TypeVar("T")
Schema = dict[str, Any]
"""Valid keys of a node and what each takes: a type annotation, or a schema for a nested node."""

GROUPS = ("method", "data", "backbone", "optimizer", "trainer", "experiment")
PRETRAIN_GROUPS = {group: group for group in GROUPS}
_LOCK = threading.Lock()  # hydra keeps one state for all threads
FREE: Any = object()  # a node whose keys somebody else checks


def compose_config(
    config_name: str,
    overrides: list[str],
    schema_of: Callable[[Mapping[str, Any]], Schema],
    groups: Mapping[str, str] = PRETRAIN_GROUPS,
) -> dict[str, Any]:
    """Compose a config from its YAML files and overrides, and check every key and value.

    Args:
        config_name: The YAML file without its ending.
        overrides: Words such as ``method=mveb`` or ``optimizer.base_lr=0.3``.
        schema_of: Gives the schema of a composed config; it depends on the chosen method.
        groups: Keys that choose a YAML file, and the folder of ``configs`` that each chooses from.

    Returns:
        Nested dictionary of plain values.

    Raises:
        ConfigError: If a word is not ``key=value``, or a key or value is unknown.
    """
    pairs = [_split(word) for word in overrides]
    choices = [_choice(key, value, groups[key]) for key, value in pairs if key in groups]
    schema = schema_of(_compose(config_name, [word for words in choices for word in words]))
    words, plain = [], {}
    for (key, value), override in zip(pairs, overrides, strict=True):
        if key in groups:
            words += _choice(key, value, groups[key])
        elif key in GROUPS and key in schema:  # hydra takes it for the choice of a YAML file
            plain[key] = value
        else:
            _check_name(key, value, pairs)
            if _takes_text(_hint(key, schema)) and value != "null":
                quoted = value.replace("\\", "\\\\").replace("'", "\\'")
                override = f"{key}='{quoted}'"  # hydra's grammar refuses many folder names
            words.append(f"++{override}")
    config = _compose(config_name, words) | plain
    check_values(config, schema)
    return config


def group_options(group: str) -> list[str]:
    """Names that may be chosen for a config group, such as the methods for ``method``."""
    folder = files("erssl.configs").joinpath(*group.split("/"))
    names = {f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")}
    # each of our own has a file; to ask the registry takes seconds, for torch has to be there
    others = "erssl.methods" in sys.modules or entry_points(group="erssl.methods")
    if group == "method" and others:
        from erssl.methods import available_methods

        names.update(available_methods())
    return sorted(names)


def schema_from(reader: Callable[..., Any], without: Iterable[str] = ()) -> Schema:
    """Keys that a function, class or dataclass takes, nested dataclasses as nested schemas."""
    function = reader.__init__ if inspect.isclass(reader) else reader
    hints = get_type_hints(function)
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


def nearest(word: str, choices: Iterable[str]) -> str:
    """The hint of an error sentence: what was probably meant, and what there is."""
    names = sorted(choices)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return (f"did you mean {close[0]}? " if close else "") + f"Choose from: {', '.join(names)}."


def _split(word: str) -> tuple[str, str]:
    key, sign, value = word.partition("=")
    if not sign or not key or key.startswith(("+", "~", "-")):
        raise ConfigError(
            f"{word!r} is not understood; give settings as key=value, for example "
            "method=mveb or optimizer.base_lr=0.3."
        )
    return key, value


def _choice(key: str, value: str, group: str) -> list[str]:
    options = group_options(group)
    if value in options:
        if group == "method" and not (files("erssl.configs") / group / f"{value}.yaml").is_file():
            return ["~method", f"+method.name={value}"]  # another package's method
        return [f"{group}={value}"]
    if value == "null" and group == "experiment":
        return []
    if "," in value and set(value.split(",")) <= set(options) and group == key:
        raise ConfigError(f"{key}={value} names several; add --multirun to run them all.")
    raise ConfigError(f"{key}={value} is unknown; {nearest(value, options)}")


def _compose(config_name: str, words: list[str]) -> dict[str, Any]:
    try:
        with (
            _beside_other_programs(),
            initialize_config_module("erssl.configs", version_base="1.3"),
        ):
            config = compose(config_name, overrides=words)
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error.__cause__ or error).split()).partition(" See https")[0]
        raise ConfigError(f"The settings cannot be read ({reason}); see --help.") from error


@contextmanager
def _beside_other_programs() -> Iterator[None]:
    """Give hydra's global state back as a program had it that uses hydra itself."""
    with _LOCK:
        before = Singleton.get_state()
        GlobalHydra.instance().clear()
        try:
            yield
        finally:
            Singleton.set_state(before)


def _check_name(key: str, value: str, pairs: list[tuple[str, str]]) -> None:
    """Refuse ``method.name=simclr``, which would leave the other keys those of another choice."""
    group, _, rest = key.partition(".")
    timm = group == "backbone" and ("backbone", "timm") in pairs
    if rest == "name" and group in GROUPS and not timm:
        way = "backbone=timm backbone.name=" if group == "backbone" else f"{group}="
        raise ConfigError(f"{key}={value} keeps the keys of another choice; write {way}{value}.")


def _takes_text(hint: Any) -> bool:
    return hint is str or (str in get_args(hint) and set(get_args(hint)) <= {str, type(None)})


def _hint(key: str, schema: Schema) -> Any:
    """What the key takes; refuses a key that nothing reads."""
    node: Any = schema
    path: list[str] = []
    for part in key.split("."):
        if node is FREE:
            return FREE
        if not isinstance(node, dict) or part not in node:
            where = ".".join(path)
            names = node if isinstance(node, dict) else {}
            valid = [f"{where}.{name}" if where else name for name in names] or [where]
            raise ConfigError(f"The key {key} is unknown; {nearest(key, valid)}")
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
            raise ConfigError(f"{key}={shown} does not fit; it must be {_describe(expected)}.")


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
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None or hint is type(None):
        return value is None
    if hint is Any:
        return True
    return isinstance(hint, type) and isinstance(value, hint)


_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a word"}


def _describe(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(a) for a in args))
    if hint is None or hint is type(None):
        return "null"
    if origin is not None:
        return f"a list like [{', '.join(_WORDS.get(a, '…') for a in args if a is not Ellipsis)}]"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))
