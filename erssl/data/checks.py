"""Checks of option values, which may come from a command line as any type."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from erssl.data.bands import has_pixels
from erssl.errors import ConfigError

_LEAST_STD = 1e-6  # of pixels in 0..1, of which nearly black ones may have 1e-4
_MOST_STD = 4.0  # more than that are statistics of pixels in 0..255
_SPAN = (1e-12, 1e12)  # of values in units of their own; beyond it single precision overflows


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


def check_statistics(prefix: str, mean: Sequence[float], std: Sequence[float]) -> None:
    """Make sure that images can be normalised by these means and deviations.

    Args:
        prefix: What the names of the two begin with in messages, such as ``data.``.
        mean: Of each channel.
        std: Of each channel. Those of one or three are of pixels in 0..1, those of other images
            of units of their own.

    Raises:
        ConfigError: If one is not finite, a deviation is not positive, or no image has such ones.
    """
    for key, values in (("mean", mean), ("std", std)):
        shown = f"{prefix}{key}={list(values)}"
        if not all(math.isfinite(value) for value in values):
            raise ConfigError(f"{shown} holds a value that is not finite; give finite numbers.")
        if key == "std" and min(values, default=1) <= 0:
            raise ConfigError(
                f"{shown} holds a value that is not positive; give the deviations of the channels."
            )
        if has_pixels(len(values)):
            least, most = (0.0, 1.0) if key == "mean" else (_LEAST_STD, _MOST_STD)
            if values and not least <= min(values) <= max(values) <= most:
                raise ConfigError(
                    f"{shown} holds a value outside of [{least:g}, {most:g}], and pixels are in "
                    "0..1; divide statistics of pixels in 0..255 by 255."
                )
        elif any(abs(v) > _SPAN[1] or (key == "std" and v < _SPAN[0]) for v in values):
            raise ConfigError(
                f"{shown} holds a value by which single precision overflows; give deviations of "
                f"{_SPAN[0]:g} to {_SPAN[1]:g} and means of at most {_SPAN[1]:g}."
            )
