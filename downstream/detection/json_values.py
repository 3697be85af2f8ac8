"""What counts as a number in a JSON file."""

from __future__ import annotations

import math


def finite(value: object) -> bool:
    """Whether a value is a finite number that a float holds."""
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # of a whole number that no float holds
        return False


def whole(value: object) -> bool:
    """Whether a value is a whole number, which ``true`` is not."""
    return isinstance(value, int) and not isinstance(value, bool)
