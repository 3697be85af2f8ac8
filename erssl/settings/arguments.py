"""Arguments of the command line: flags, overrides (``key=value``), those of a Python call."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from erssl.errors import ConfigError

MULTIRUN = ("--multirun", "-m")
_PYTHON: ContextVar[bool] = ContextVar("called_from_python", default=False)


@contextmanager
def called_from_python() -> Iterator[None]:
    """Let errors name functions and lists in place of flags of the command line inside."""
    token = _PYTHON.set(True)
    try:
        yield
    finally:
        _PYTHON.reset(token)


def names_several(key: str, value: str) -> str:
    """The sentence that refuses several values for one run."""
    if _PYTHON.get():
        return f"{key}={value} names several; give one, or a list of them to erssl.compare."
    return f"{key}={value} names several; add --multirun to run them all."


def names_one() -> str:
    """The sentence that refuses a comparison of one run."""
    if _PYTHON.get():
        return (
            "erssl.compare needs a key with several values, for example method=['mveb', 'simclr'] "
            "or seed=[0, 1, 2]; erssl.pretrain does one run."
        )
    return (
        "--multirun needs a key with several values, for example method=mveb,simclr or "
        "seed=0,1,2; leave it out for one run."
    )


def launcher_overrides(arguments: Sequence[str]) -> list[str]:
    """The overrides that are for a launcher of hydra, such as ``hydra/launcher=joblib``."""
    return [each for each in arguments if each.startswith(("hydra/launcher=", "hydra.launcher."))]


def overrides_of(arguments: Mapping[str, Any]) -> list[str]:
    """Write arguments as the command line has them.

    Args:
        arguments: Values by key. A key may be dotted (``"optimizer.base_lr"``); a mapping stands
            for the keys below its own.

    Returns:
        Overrides such as ``optimizer.base_lr=0.1``, in their order.

    Raises:
        ConfigError: If a value has no form on the command line.

    Example:
        >>> overrides_of({"epochs": 3, "trainer": {"devices": [0, 1]}, "data.root": None})
        ['epochs=3', 'trainer.devices=[0,1]', 'data.root=null']
    """
    overrides: list[str] = []
    for key, value in arguments.items():
        if isinstance(value, Mapping):
            overrides += overrides_of({f"{key}.{name}": v for name, v in value.items()})
        else:
            overrides.append(f"{key}={_text(key, value)}")
    return overrides


def is_setting(argument: str) -> bool:
    """Whether an argument is ``key=value`` rather than a path, which may hold the sign too.

    Example:
        >>> is_setting("output=x"), is_setting("runs/lr=0.1"), is_setting("runs")
        (True, False, False)
    """
    return bool(_KEY.match(argument)) and not os.path.lexists(argument)


_KEY = re.compile(r"[A-Za-z_][\w.]*=", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)
_MEANING = {"null", "true", "false", "nan", "inf"}  # in hydra's grammar


def _text(key: str, value: Any, inside: bool = False) -> str:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # NumPy's and torch's
        value = value.item()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        return _quoted(text) if inside else text
    if isinstance(value, Iterable):
        return f"[{','.join(_text(key, each, inside=True) for each in value)}]"
    raise ConfigError(
        f"{key} is a {type(value).__name__}; give a number, a text, a switch, a list of them, or "
        "null by None."
    )


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _MEANING:
        return text
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)  # backslashes count before a quote alone
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"
