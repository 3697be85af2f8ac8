"""The sum of the entropies of an embedding's dimensions."""

from __future__ import annotations

import math

from torch import Tensor

from erssl.entropy.precision import full_precision


@full_precision
def marginal_entropy(z: Tensor, m: int | None = None, floor: float = 0.0) -> Tensor:
    r"""Sum over dimensions of the entropy of each, by m-spacings, in nats.

    .. math:: \sum_j \Big[ \psi(N + 1) - \psi(m) + \frac1{N - m} \sum_{i=1}^{N-m}
              \log\big(z_{(i+m),j} - z_{(i),j}\big) \Big]

    with the order statistics :math:`z_{(i),j}` of dimension j. Source: Vasicek (1976), with the
    digammas that make it unbiased of a uniform density; E2MC (arXiv 2411.15931) maximises it. In
    the limit an upper bound of the entropy of any density on ℝ^d, since dimensions that depend on
    each other have less together; the spacings' own bias counts d times.

    Args:
        z: Embeddings (N, d) of any norm.
        m: Distance of the order statistics, 1 to N - 1; the root of N where ``None`` (E2MC).
        floor: The least spacing, for a loss that is to stay finite; 0 for none.

    Returns:
        Scalar tensor, at least in float32; -inf where more than ``m`` values of a dimension are
        the same and there is no ``floor``.

    Raises:
        ValueError: If there are fewer than two rows or ``m`` is out of range.

    Examples:
        >>> import torch
        >>> z = torch.rand(4096, 3, generator=torch.Generator().manual_seed(0))
        >>> abs(marginal_entropy(z).item()) < 0.1  # each dimension's is 0
        True
    """
    if z.ndim != 2 or len(z) < 2:
        raise ValueError(
            f"Marginal entropies need embeddings (N, d), N >= 2; got {tuple(z.shape)}."
        )
    n = len(z)
    m = max(1, round(math.sqrt(n))) if m is None else m
    if not isinstance(m, int) or not 1 <= m < n:
        raise ValueError(f"The spacing m must be from 1 to N - 1 = {n - 1} but is {m}.")
    if not floor >= 0:
        raise ValueError(f"The floor of spacings must be at least 0 but is {floor}.")
    ordered = z.sort(dim=0).values
    spacings = ordered[m:] - ordered[:-m]
    digammas = math.fsum(1 / j for j in range(m, n + 1))  # ψ(N + 1) - ψ(m)
    return spacings.clamp_min(floor).log().mean(dim=0).sum() + z.shape[1] * digammas
