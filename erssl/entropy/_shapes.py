"""What entropies of rows ask of their shape."""

from __future__ import annotations

from torch import Tensor


def check_matrix(z: Tensor) -> None:
    """Refuse what is no matrix of rows.

    Raises:
        ValueError: If ``z`` is not (N, d) with both at least 1.
    """
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(
            f"Embeddings must have shape (N, d) with N and d >= 1; got {tuple(z.shape)}."
        )
