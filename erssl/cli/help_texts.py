"""What ``erssl COMMAND --help`` prints, without what the command itself has to import.

The comments at the head of a command's config file are its help, and those behind its keys explain
them. What the files say that it names in ``defaults`` comes with it.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

_DEFAULTS_LIST = re.compile(r"^defaults:\n(  - .*(\n|$))+", re.MULTILINE)
_AUTO = "auto"
_SELF = "_self_"


def help_text(command: str) -> str:
    """Usage, examples and keys of a command."""
    head, _ = _parts(command)
    names = _with_those_below(command)
    parts = ["\n".join(head)]
    # the first line of a file that others share is its title
    parts += ["\n".join(_parts(name)[0][2:]) for name in names if name != command]
    parts += [_choices(command), _presets(command)]
    keys = [line for name in names for line in _parts(name)[1]]
    if keys:
        parts.append("\n".join(["Keys:", *keys]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _with_those_below(name: str) -> list[str]:
    """A file and those that it builds on, in the order of ``defaults``."""
    named = [each for each in _defaults(name) if isinstance(each, str)]
    if _SELF not in named:
        named.append(_SELF)
    inner = ([name] if each == _SELF else _with_those_below(each) for each in named)
    return [file for files_of in inner for file in files_of]


def _choices(command: str) -> str:
    """The options of the groups that a command chooses from, or of its own folder."""
    from erssl.settings.compose import GROUPS, group_options

    groups = {group for entry in _defaults(command) if isinstance(entry, dict) for group in entry}
    if groups & set(GROUPS):
        lines = [f"  {group:<11} {', '.join(group_options(group))}" for group in GROUPS]
        about = (
            "Choices, which bring keys of their own such as method.beta or trainer.precision\n"
            "(of a method: erssl methods <name>; of data sets, optimisers: docs/data.md#keys):"
        )
        return "\n".join([about, *lines])
    own = (files("erssl.configs") / command).is_dir()
    return f"NAME is one of {', '.join(group_options(command))}." if own else ""


def _presets(command: str) -> str:
    """The presets of an evaluation, and the keys of the one that it takes by default."""
    from erssl.settings.compose import group_options

    group = f"preset/{command}"
    chosen = [entry[group] for entry in _defaults(command) if group in entry]
    if not chosen:
        return ""
    default = shown = chosen[0]
    about = default
    if default == _AUTO:  # its values are those of the preset that it begins with
        shown = next(name for name in _defaults(f"{group}/{_AUTO}") if name != _SELF)
        about = f"{_AUTO}: what fits the number of training images, and says which"
    lines = [line for line in _text(f"{group}/{shown}").splitlines() if line[:1] not in ("#", "")]
    return "\n".join(
        [
            f"preset={'|'.join(group_options(group))} ({about}).",
            f"The keys of a preset, each of which may be overridden (those of {shown}):",
            *(f"  {line}" for line in lines if not line.startswith("preset")),
        ]
    )


def _parts(name: str) -> tuple[list[str], list[str]]:
    """The comments at the head of a config file, and the lines of its keys, indented."""
    lines = _text(name).splitlines()
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    keys = _DEFAULTS_LIST.sub("", "\n".join(lines[count:])).splitlines()
    shown = [re.sub(r'^# |^"(\w+)"', r"\1", line) for line in keys if line]
    return [line[2:] for line in lines[:count]], [f"  {line}" for line in shown]


def _defaults(name: str) -> list[Any]:
    """The ``defaults`` list of a config file."""
    import yaml

    return list((yaml.safe_load(_text(name)) or {}).get("defaults", ()))


def _text(name: str) -> str:
    file = files("erssl.configs").joinpath(*f"{name}.yaml".split("/"))
    return file.read_text(encoding="utf-8")
