"""Checks of what losses are made with: weights of their terms, and counts."""

from __future__ import annotations

import math


def check_weights(**weights: float) -> None:
    """Refuse a weight that a term cannot have.

    Args:
        **weights: By the names that the loss gives them.

    Raises:
        ValueError: If one is negative or not finite.
    """
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite but is {weight}.")


def check_both_terms(entropy_weight: float, reconstruction_weight: float) -> None:
    """Refuse weights that make no loss of the two terms.

    Raises:
        ValueError: If a weight is negative or not finite, or both are 0.
    """
    check_weights(entropy_weight=entropy_weight, reconstruction_weight=reconstruction_weight)
    if entropy_weight == reconstruction_weight == 0:
        raise ValueError(
            "entropy_weight and reconstruction_weight are both 0, which leaves no loss; give one "
            "of them a weight."
        )


def check_counts(**counts: int) -> None:
    """Refuse what is no number of things.

    Args:
        **counts: By the names that the loss gives them.

    Raises:
        ValueError: If one is no whole number of at least 1.
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1 but is {count!r}.")
