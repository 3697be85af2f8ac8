"""What the evaluation commands print on ``--help``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from erssl.settings.compose import group_options

_RUNS_OWN = """, or pixels. A run is evaluated on its
own images where data= is not said; image size and channel statistics are those of the weights."""
_AUTO = ": what fits the number of training images, and says which"
_ELEVEN = """. Data sets are looked for in
data_root and in each folder of it, in their original layouts."""


def protocol_help(command: str, what: str, examples: Sequence[str]) -> str:
    """Usage, examples, presets and keys of an evaluation command."""
    names = ["evaluate"] + (["features"] if command in ("knn", "linear", "transfer") else [])
    names += [] if command in ("knn", "transfer") else ["training"]
    shown = "\n".join(f"  {example}" for example in examples)
    keys = "".join(_keys(name) for name in [*names, command])
    own_data = command == "transfer"
    others = "" if command in ("knn", "transfer") else "  trainer.*  as in erssl pretrain\n"
    others += "" if own_data else "  data, data.*  as in erssl pretrain\n"
    usage = "data_root=<folder>" if own_data else "[data=<images>]"
    what_is_evaluated = _ELEVEN if own_data else _RUNS_OWN
    presets = group_options(f"preset/{command}")
    default = next(p for p in presets if f"preset/{command}: {p}\n" in _text(command))
    shown_preset = default
    if default == "auto":  # its values are those of the preset that it begins with
        shown_preset = next(p for p in presets if f"  - {p}\n" in _text(f"preset/{command}/auto"))
    return f"""erssl {command}: {what}

Usage: erssl {command} checkpoint=<what> {usage} [key=value ...]

Examples:
{shown}

checkpoint= takes a run directory, a checkpoint of any known layout, zoo:<name> for published
weights, or random:<run or architecture> for an untrained network{what_is_evaluated}

preset={"|".join(presets)} ({default}{_AUTO if default == "auto" else ""}).
The keys of a preset, each of which may be overridden (those of {shown_preset}):
{_indented(f"preset/{command}/{shown_preset}")}
Keys:
{keys}{others}"""


def _keys(name: str) -> str:
    """The lines of a YAML file that say what its keys take."""
    text = _text(name).partition("\n\n")[2] if "defaults:" in _text(name) else _text(name)
    return "".join(f"  {line}\n" for line in text.splitlines() if line and line[0] != "#")


def _indented(name: str) -> str:
    lines = [line for line in _text(name).splitlines() if not line.startswith(("#", "preset"))]
    return "\n".join(f"  {line}" for line in lines) + "\n"


def _text(name: str) -> str:
    file = files("erssl.configs").joinpath(*f"{name}.yaml".split("/"))
    return file.read_text(encoding="utf-8")
