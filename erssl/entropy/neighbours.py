"""Entropy on the sphere by the distance to the k-th nearest neighbour (Kozachenko-Leonenko)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from erssl.entropy._precision import full_precision
from erssl.entropy.cap import cap_log_area

_ROWS = 256  # that are compared with all others at a time
_MORE = 5  # candidates beyond k, lest the rounding of inner products mistakes the neighbour


@full_precision
def knn_entropy(z: Tensor, k: int = 3) -> Tensor:
    r"""Estimate the entropy on the sphere from nearest neighbours, in nats.

    .. math:: \hat H = \psi(N) - \psi(k) + \frac1N \sum_i \log |\mathrm{cap}(\theta_i)|

    with θ the angle between a row and its k-th nearest neighbour, and the exact area of the cap
    of that angle. Source: Kozachenko and Leonenko (1987), with caps of the sphere for balls.

    An estimate, no bound: consistent as N grows, but it takes the density to be constant within
    the cap. In high dimensions the cap is wide, the density is not, and the estimate stays far
    above the entropy at any N that one has (docs/entropy.md). Rows have to be
    independent: one view an image, since the second view is its first one's nearest neighbour.

    Args:
        z: Embeddings (N, d) with rows of unit norm, d of at least 2.
        k: Which neighbour; 3 keeps its variance low at little bias (Kraskov et al. 2004 take 2
            to 4).

    Returns:
        Scalar tensor, at least in float32 and computed in float64; -inf where a row has k exact
        duplicates, for then there is no density; NaN where a row is not finite.

    Raises:
        ValueError: If ``z`` is not a matrix of d >= 2 or ``k`` not in 1, …, N - 1.

    Examples:
        >>> z = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
        >>> z = F.normalize(z, dim=1)  # uniform on the sphere of area 4π
        >>> round(knn_entropy(z).exp().item() / torch.pi, 1)
        4.0
    """
    if z.ndim != 2 or z.shape[1] < 2:
        raise ValueError(f"Embeddings must have shape (N, d) with d >= 2; got {tuple(z.shape)}.")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k < len(z):
        raise ValueError(
            f"The neighbour k must be an integer from 1 to N - 1 = {len(z) - 1} but is {k!r}."
        )
    rows = F.normalize(z if z.device.type == "mps" else z.double(), dim=1)
    nearest = rows[_kth_neighbours(rows.detach(), k)]
    chords = torch.linalg.vector_norm(rows - nearest, dim=1)
    angles = 2 * (0.5 * chords).clamp_max(1).asin()
    digammas = math.fsum(1 / j for j in range(k, len(z)))  # ψ(N) - ψ(k)
    return digammas + cap_log_area(z.shape[1], angles).mean().to(z)


def _kth_neighbours(z: Tensor, k: int) -> Tensor:
    """Index (N,) of each row's k-th nearest other row."""
    nearest = []
    for start in range(0, len(z), _ROWS):
        tile = z[start : start + _ROWS]
        cosines = tile @ z.T
        cosines.diagonal(start).fill_(-2)  # below every cosine
        candidates = cosines.topk(min(k + _MORE, len(z) - 1), dim=1).indices
        chords = torch.linalg.vector_norm(tile[:, None] - z[candidates], dim=2)
        which = chords.topk(k, dim=1, largest=False).indices[:, -1:]
        nearest.append(candidates.gather(1, which)[:, 0])
    return torch.cat(nearest)
