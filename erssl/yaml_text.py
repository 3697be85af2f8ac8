"""YAML that others may have written: read only where it cannot grow without bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from erssl.errors import printable

_BYTES, _DEPTH, _NODES = 2**22, 50, 100_000


def read_yaml_text(file: Path) -> str:
    """The text of a YAML file, once it is sure that it is safe to be parsed.

    A few aliases of aliases stand for more values than any memory holds, and thousands of brackets
    are deeper than Python's stack.

    Raises:
        OSError: If it cannot be read, or is no regular file.
        ValueError: If it is no text, no YAML, or stands for too much.
    """
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise OSError(f"{file.name} is no file")
    with file.open("rb") as content:
        raw = content.read(_BYTES + 1)
    if len(raw) > _BYTES:
        raise ValueError(f"it has more than {_BYTES / 2**20:.0f} MiB")
    text = raw.decode("utf-8")
    try:
        _check_depth(text)
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if node is not None:
        _count(node, {}, [])
    return text


def read_settings_file(file: Path) -> Any:
    """Plain values of a ``config.yaml``, interpolations left as they are.

    Raises:
        OSError: As `read_yaml_text`.
        ValueError: As `read_yaml_text`, or if OmegaConf cannot hold it.
    """
    try:
        return OmegaConf.to_container(OmegaConf.create(read_yaml_text(file)))
    except (yaml.YAMLError, OmegaConfBaseException, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise ValueError(f"it is nested deeper than {_DEPTH} levels")


def _count(node: yaml.Node, counted: dict[int, int], above: list[int]) -> int:
    """Number of values that a node stands for, with what its aliases name."""
    if id(node) in above:
        raise ValueError("it holds itself")
    if id(node) not in counted:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = list(node.value)
        elif isinstance(node, yaml.MappingNode):
            inner = [each for pair in node.value for each in pair]
        total = 1 + sum(_count(each, counted, [*above, id(node)]) for each in inner)
        if total > _NODES:
            raise ValueError(f"its aliases stand for more than {_NODES:,} values")
        counted[id(node)] = total
    return counted[id(node)]


def comments_of(text: str) -> dict[str, str]:
    """What the comments behind the values of a YAML text say, by dotted key.

    Args:
        text: YAML of nested mappings; a comment behind a list is that of the list.
    """
    lines = text.splitlines()
    comments = {}
    for key, name, value in _scalars(yaml.compose(text, yaml.SafeLoader)):
        flow = isinstance(value, yaml.ScalarNode) or value.flow_style
        end = value.end_mark if flow and value.end_mark.line == name.end_mark.line else None
        rest = lines[name.end_mark.line][end.column if end else name.end_mark.column + 1 :].strip()
        if rest.startswith("#"):
            comments[key] = rest.lstrip("# ")
    return comments


def commented_yaml(values: Any, comments: Mapping[str, str]) -> str:
    """YAML of nested values with a comment behind each that has one; see :func:`comments_of`.

    Args:
        values: Nested mappings.
        comments: One line for each dotted key.
    """
    text: str = OmegaConf.to_yaml(OmegaConf.create(values))
    lines = text.splitlines()
    for key, name, value in _scalars(yaml.compose(text, yaml.SafeLoader)):
        number = name.end_mark.line
        if key in comments and (
            value.end_mark.line == number or isinstance(value, yaml.SequenceNode)
        ):
            lines[number] += f" # {printable(comments[key])}"
    return "\n".join(lines) + "\n"


def _scalars(node: yaml.Node | None, where: str = "") -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Dotted key, the key's own node and the value's of everything that is no mapping."""
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        key = f"{where}.{name.value}".strip(".")
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _scalars(value, key)
        else:
            yield key, name, value
