"""Settings in layers: YAML files whose values lie over one another, each with its source.

The files are hydra's: a ``defaults`` list names the files below, ``# @package _global_`` says that
the keys of a group's file are those of the whole config. Read here, without torch, every value
keeps the name of the layer that it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from erssl.announced import ENTRY_POINT_GROUPS, announced_file
from erssl.errors import ConfigError

Values = dict[str, Any]

# Nodes of one kind of thing, and the key that says which. A layer that names another one begins
# the node anew: nothing of the learning rate of LARS stays where SGD is chosen.
KINDS = {"method": "name", "optimizer": "name", "backbone": "name", "data.views": "recipe"}
_PARTS = ("/optimizer", "/backbone")  # which lie over the recipe of the method
_GLOBAL = "# @package _global_"
_SELF = "_self_"


@dataclass(frozen=True)
class Layer:
    """Values of one source.

    Attributes:
        source: What ``config.yaml`` says of the values.
        values: Nested values.
        whole: Dotted names of nodes that the layer replaces rather than changes.
        renewed: Nodes that begin anew where the layer names another kind; see ``KINDS``.
        in_place_of: ``{group: {kind: option}}``: where the layers below chose that kind of a
            group's node, the group's file of that option takes its place.
        methods: ``{method: {option: value}}``: options of single methods.
    """

    source: str
    values: Values
    whole: tuple[str, ...] = ()
    renewed: tuple[str, ...] = tuple(KINDS)
    in_place_of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    methods: Mapping[str, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class ConfigFile:
    """A YAML file of a config group.

    Attributes:
        defaults: Its ``defaults`` list, itself (``_self_``) included.
        values: Its own values, under the group's name where they are not global.
        in_place_of: See :class:`Layer`.
        methods: See :class:`Layer`.
        earlier: Of a method: values that runs had before there was the option.
        small: Of a method: options that make it quick to try, beside smaller heads.
    """

    defaults: tuple[Any, ...]
    values: Values
    in_place_of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    methods: Mapping[str, Values] = field(default_factory=dict)
    earlier: Values = field(default_factory=dict)
    small: Values = field(default_factory=dict)

    @property
    def overrides(self) -> dict[str, str]:
        """Options of other groups that it chooses, as an experiment chooses its method."""
        return {
            group.removeprefix("override /"): option
            for entry in self.defaults
            if isinstance(entry, dict)
            for group, option in entry.items()
            if group.startswith("override /")
        }


_REGISTERED: dict[str, ConfigFile] = {}  # those of classes that were registered in this process


def read_config_file(name: str) -> ConfigFile:
    """Read a file of ``erssl.configs``, or one that another package has registered or announced.

    Args:
        name: Such as ``pretrain`` or ``method/simsiam``.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    group, _, option = name.rpartition("/")
    own: Any = files("erssl.configs").joinpath(*f"{name}.yaml".split("/"))
    file = own if own.is_file() else _announced(group, option) or own
    try:
        return parse_config_file(file.read_text(encoding="utf-8"), group)
    except ConfigError as error:
        raise ConfigError(f"{file} is no file of {group}: {error}") from error


def has_config_file(group: str, option: str) -> bool:
    """Whether an option of a config group has a file, ours or one that a package announces."""
    own = files("erssl.configs") / group / f"{option}.yaml"
    return own.is_file() or _announced(group, option) is not None


def register_config_file(group: str, option: str, file: ConfigFile) -> None:
    """Let an option of a config group be known in this process."""
    _REGISTERED[f"{group}/{option}"] = file


def forget_config_file(group: str, option: str) -> None:
    """Take back what :func:`register_config_file` did."""
    _REGISTERED.pop(f"{group}/{option}", None)


def _announced(group: str, option: str) -> Path | None:
    return announced_file(group, option) if group in ENTRY_POINT_GROUPS else None


def parse_config_file(text: str, group: str = "") -> ConfigFile:
    """Read the text of a config file.

    Args:
        text: YAML.
        group: The group whose keys it holds unless it says ``# @package _global_``.

    Raises:
        ConfigError: If it is no YAML of keys and values, or holds the keys of a whole config and
            does not say so.
    """
    try:
        values: Any = OmegaConf.to_container(OmegaConf.create(text)) if text.strip() else {}
    except (YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"It is no YAML of keys and values ({reason}).") from error
    if not isinstance(values, dict):
        raise ConfigError("It is a list, not keys and values.")
    defaults = list(values.pop("defaults", []))
    apart = [values.pop(key, {}) for key in ("in_place_of", "methods", "earlier", "small")]
    if _SELF not in defaults:
        defaults.append(_SELF)
    if group and not text.startswith(_GLOBAL):
        if group in values:
            raise ConfigError(
                f"It sets {', '.join(values)}, keys of a whole config; begin it with the line "
                f"{_GLOBAL!r}."
            )
        values = nested(group.replace("/", "."), values)
    return ConfigFile(tuple(defaults), values, *apart)


def layers_of(
    name: str,
    choices: Mapping[str, str | None],
    source: str = "default",
    others: Mapping[str, ConfigFile] | None = None,
) -> list[Layer]:
    """The layers of a config file, those of the files that its ``defaults`` name in their order.

    Args:
        name: The file, as for :func:`read_config_file`.
        choices: Options of groups that are taken in place of those in its ``defaults``.
        source: What is said of the file's own values.
        others: Files that are not among ours, such as ``method/mine`` of another package.
    """
    file = (others or {}).get(name) or read_config_file(name)
    folder = name.rpartition("/")[0]
    layers: list[Layer] = []
    for entry in file.defaults:
        if entry == _SELF:
            own = Layer(source, file.values, in_place_of=file.in_place_of, methods=file.methods)
            layers.append(own)
        elif isinstance(entry, str):
            layers += layers_of(f"{folder}/{entry}".strip("/"), choices, source, others)
        else:
            for group, option in entry.items():
                if (
                    group.startswith("/") or group.removeprefix("override ") in _PARTS
                ):  # of the file that names it
                    layers.append(option_layer(group.rpartition("/")[2], option, source))
                elif not group.startswith("override "):
                    chosen = choices.get(group, option)
                    above = f"{group} {chosen}"
                    if chosen is not None:
                        layers += layers_of(f"{group}/{chosen}", choices, above, others)
    return layers


def option_layer(group: str, option: str, source: str) -> Layer:
    """A group's file as one layer that replaces the group's node as a whole."""
    return Layer(source, read_config_file(f"{group}/{option}").values, (group,))


def merge_layers(layers: Iterable[Layer]) -> tuple[Values, dict[str, str]]:
    """Lay values over one another, the last on top.

    Returns:
        The values, and the source of each by its dotted key.
    """
    values: Values = {}
    sources: dict[str, str] = {}
    for layer in layers:
        for group, kinds in layer.in_place_of.items():
            option = kinds.get(_at(values, f"{group}.{KINDS[group]}"))
            if option is not None:
                _lay(values, sources, option_layer(group, option, layer.source))
        _lay(values, sources, layer)
        if own := layer.methods.get(_at(values, "method.name")):
            _lay(values, sources, Layer(layer.source, {"method": own}))
    return values, sources


def nested(key: str, value: Any) -> Values:
    """A value under a dotted key."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def flat(node: Any, where: str = "") -> dict[str, Any]:
    """Dotted keys and their values, lists and tuples alike, without empty groups."""
    if isinstance(node, Mapping):
        return {k: v for n in node for k, v in flat(node[n], f"{where}.{n}".strip(".")).items()}
    return {where: list(node) if isinstance(node, (list, tuple)) else node}


def leaves(node: Any, where: str = "") -> dict[str, Any]:
    """Dotted keys and their values; an empty group of keys is a value too."""
    if isinstance(node, Mapping) and node:
        below = [leaves(value, f"{where}.{name}".strip(".")) for name, value in node.items()]
        return {key: value for part in below for key, value in part.items()}
    return {where: node} if where else {}


def _lay(values: Values, sources: dict[str, str], layer: Layer) -> None:
    for node in layer.whole:
        _remove(values, sources, node)
    for node, key in KINDS.items():
        kind = _at(layer.values, f"{node}.{key}")
        other = node in layer.renewed and kind not in (None, _at(values, f"{node}.{key}"))
        if other:
            _remove(values, sources, node)
    for key, value in leaves(layer.values).items():
        _put(values, sources, key, value)
        sources[key] = layer.source


def _put(values: Values, sources: dict[str, str], key: str, value: Any) -> None:
    *above, name = key.split(".")
    node = values
    for part in above:
        if not isinstance(node.get(part), dict):
            node[part] = {}
        node = node[part]
    if value == {} and isinstance(node.get(name), dict):
        return
    if isinstance(node.get(name), dict):
        _remove(values, sources, key)
    node[name] = value


def _remove(values: Values, sources: dict[str, str], key: str) -> None:
    *above, name = key.split(".")
    node: Any = values
    for part in above:
        node = node.get(part) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(name, None)
    for known in [known for known in sources if f"{known}.".startswith(f"{key}.")]:
        del sources[known]


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
