"""The weights of entropy and reconstruction in the losses that have both."""

from __future__ import annotations

import math


def check_weights(entropy_weight: float, reconstruction_weight: float) -> None:
    """Refuse weights that make no loss of the two terms.

    Raises:
        ValueError: If a weight is negative or not finite, or both are 0.
    """
    for name, weight in (
        ("entropy_weight", entropy_weight),
        ("reconstruction_weight", reconstruction_weight),
    ):
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite but is {weight}.")
    if entropy_weight == reconstruction_weight == 0:
        raise ValueError(
            "entropy_weight and reconstruction_weight are both 0, which leaves no loss; give one "
            "of them a weight."
        )
