"""Checks of option values, which may come from a command line as any type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from erssl.errors import ConfigError


def check_choice(key: str, value: object, choices: Sequence[str]) -> None:
    """Make sure that ``value`` is one of ``choices``.

    Raises:
        ConfigError: If it is not.
    """
    if value not in choices:
        raise ConfigError(f"{key}={value} is unknown; choose one of {', '.join(choices)}.")


def check_whole(key: str, value: object, least: int, meaning: str) -> None:
    """Make sure that ``value`` is a whole number of at least ``least``.

    Raises:
        ConfigError: If it is not; ``meaning`` then says what the number is.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{key}={value} is not {meaning}; give a whole number from {least} up.")


def check_switch(key: str, value: object) -> None:
    """Make sure that ``value`` is a boolean; "no" is a text, and would count as true.

    Raises:
        ConfigError: If it is not.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{key}={value} is neither true nor false; give one of the two.")


def as_numbers(key: str, values: object, count: int, meaning: str) -> tuple[float, ...]:
    """Turn ``values`` into a tuple of ``count`` floats.

    Raises:
        ConfigError: If that cannot be done; ``meaning`` then says what the numbers are.
    """
    try:
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError
        numbers = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count:
        shown = list(values) if isinstance(values, tuple) else values
        raise ConfigError(f"{key}={shown} is not {meaning}; give a list of {count} numbers.")
    return numbers
