"""Entropy on the sphere by the distance to the k-th nearest neighbour (Kozachenko-Leonenko)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from erssl.entropy.cap import cap_log_area
from erssl.entropy.geometry import unit_rows
from erssl.entropy.precision import full_precision

_ROWS = 256  # that are compared with all others at a time
CLOSE = 1e-8  # distance that exact copies count as in a loss, DINOv2's
NEIGHBOUR = 3  # keeps the variance low at little bias (Kraskov et al. 2004 take 2 to 4)
_MORE = 5  # candidates beyond k, lest the rounding of inner products mistakes the neighbour


@full_precision
def knn_entropy(z: Tensor, k: int = NEIGHBOUR, closest: float = 0.0) -> Tensor:
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
        closest: Distance that nearer neighbours count as, such as 1e-8 in a loss, which then is
            finite at copies, and pushes them in no direction.

    Returns:
        Scalar tensor, at least in float32 and computed in float64; -inf where a row has k exact
        duplicates (rows of 0 are), for then there is no density, unless ``closest`` is above 0;
        NaN where a row is not finite.

    Raises:
        ValueError: If ``z`` is not a matrix of d >= 2 or ``k`` not in 1, …, N - 1.

    Examples:
        >>> z = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
        >>> z = torch.nn.functional.normalize(z, dim=1)  # uniform on the sphere of area 4π
        >>> round(knn_entropy(z).exp().item() / torch.pi, 1)
        4.0
    """
    if z.ndim != 2 or z.shape[1] < 2:
        raise ValueError(f"Embeddings must have shape (N, d) with d >= 2; got {tuple(z.shape)}.")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k < len(z):
        raise ValueError(
            f"The neighbour k must be an integer from 1 to N - 1 = {len(z) - 1} but is {k!r}."
        )
    rows = unit_rows(z if z.device.type == "mps" else z.double())
    nearest = rows[_kth_neighbours(rows.detach(), k)]
    chords = torch.linalg.vector_norm(rows - nearest, dim=1)
    # just below 1, where the slope of the arc sine is finite
    angles = 2 * (0.5 * chords).clamp(0.5 * closest, 1 - torch.finfo(rows.dtype).eps).asin()
    digammas = math.fsum(1 / j for j in range(k, len(z)))  # ψ(N) - ψ(k)
    return digammas + cap_log_area(z.shape[1], angles).mean().to(z)


@full_precision
def log_neighbour_distance(z: Tensor, keys: Tensor | None = None, own_offset: int = 0) -> Tensor:
    r"""Logarithm of each row's distance to its nearest other row (KoLeo).

    .. math:: \log \rho_i, \quad \rho_i = \min_{j \ne i} \lVert z_i - z_j \rVert

    Source: Sablayrolles et al. (2019, arXiv 1806.03198); DINOv2 (arXiv 2304.07193) maximises its
    mean. By Kozachenko and Leonenko the entropy of the rows on the sphere is d - 1 times the mean,
    plus what does not depend on the rows: an estimate up to a factor and a constant. At exact
    copies the gradient is 0, for nothing says in which direction they should part.

    Args:
        z: Embeddings (N, d) with rows of unit norm.
        keys: Rows (M, d) among which neighbours are looked for, where there are more of them;
            ``None`` for ``z``.
        own_offset: Where the rows of ``z`` begin among the keys, each its own key.

    Returns:
        Tensor (N,), at least in float32; finite (the logarithm of 1e-8 at copies).

    Raises:
        ValueError: If there is no other row.

    Examples:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> log_neighbour_distance(z).exp()
        tensor([1.4142, 1.4142])
    """
    keys = z if keys is None else keys
    if z.ndim != 2 or len(keys) < 2:
        raise ValueError(f"A neighbour needs embeddings (N, d), N >= 2; got {tuple(keys.shape)}.")
    nearest = keys[_kth_neighbours(z.detach(), 1, keys.detach(), own_offset)]
    return 0.5 * ((z - nearest).square().sum(dim=1) + CLOSE**2).log()


def _kth_neighbours(z: Tensor, k: int, keys: Tensor | None = None, own_offset: int = 0) -> Tensor:
    """Index (N,) of each row's k-th nearest other row among the keys."""
    keys = z if keys is None else keys
    nearest = []
    for start in range(0, len(z), _ROWS):
        tile = z[start : start + _ROWS]
        cosines = tile @ keys.T
        cosines.diagonal(own_offset + start).fill_(-2)  # below every cosine
        candidates = cosines.topk(min(k + _MORE, len(keys) - 1), dim=1).indices
        chords = torch.linalg.vector_norm(tile[:, None] - keys[candidates], dim=2)
        which = chords.topk(k, dim=1, largest=False).indices[:, -1:]
        nearest.append(candidates.gather(1, which)[:, 0])
    return torch.cat(nearest)
