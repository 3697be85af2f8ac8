"""Mean and deviation over the seeds of a cell, which may hold -inf, as of a run that collapsed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; -inf, inf or NaN where a value is not finite."""
    if all(map(math.isfinite, values)):
        return statistics.fmean(values)
    return sum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; ``None`` where one value, or one not finite, tells nothing."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    return statistics.stdev(values)


def mean_text(values: Sequence[float], digits: int, sign: bool = False) -> str:
    """The mean, and behind ± the deviation where there is one.

    Example:
        >>> mean_text([1.0, 2.0], 1), mean_text([0.25], 2, sign=True), mean_text([float("-inf")], 1)
        ('1.5 ± 0.7', '+0.25', '-inf')
    """
    form = f"{'+' if sign else ''}.{digits}f"
    text = f"{mean(values):{form}}"
    spread = deviation(values)
    return text if spread is None else f"{text} ± {spread:.{digits}f}"
