"""The KDE of the best concentration, chosen and read on different rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from erssl.entropy._kernel_sums import log_kernel_sums
from erssl.entropy.geometry import unit_rows
from erssl.entropy.vmf import log_normalizer_value

_ROWS = 512  # of a tile of cosines
_HELD = 2**24  # cosines that are kept between two looks at them (128 MiB)
_FIRST = tuple(2.0**power for power in range(-4, 5))  # of the grid, times d
_LOWEST, _HIGHEST = 1e-3, 1e12  # concentrations: next to uniform; next to float64's resolution
_REFINEMENTS = 4  # halvings of the grid's step, down to a factor of 2^(1/16)


def held_out_entropy(z: Tensor) -> Tensor:
    """Entropy of unit rows (N, d) in nats: an upper bound in expectation; see ``kde_entropy``.

    Even rows choose a concentration and carry the density, odd rows read it, and the other way
    round; the two readings are averaged.

    Args:
        z: Embeddings (N, d), N of at least 4.

    Returns:
        Scalar tensor of the dtype of ``z``, computed in float64; -inf where the rows of a half
        repeat themselves, so that the likelihood grows without end.

    Raises:
        ValueError: If there are fewer than four rows or d is below 2.
    """
    if z.ndim != 2 or len(z) < 4 or z.shape[1] < 2:
        raise ValueError(
            "kappa='best' chooses and reads on two halves and needs embeddings (N, d) with "
            f"N >= 4 and d >= 2; got {tuple(z.shape)}."
        )
    rows = unit_rows(z if z.device.type == "mps" else z.double())
    readings = []
    for keys, queries in ((rows[::2], rows[1::2]), (rows[1::2], rows[::2])):
        kappa = best_kappa(keys.detach())
        if not math.isfinite(kappa):
            readings.append(rows.new_tensor(-kappa))
            continue
        sums = log_kernel_sums(queries, keys, kappa)
        log_normalizer = log_normalizer_value(z.shape[1], kappa) - math.log(len(keys))
        readings.append(-(sums.mean() + log_normalizer))
    return torch.stack(readings).mean().to(z.dtype)


def best_kappa(z: Tensor) -> float:
    """Concentration of the highest leave-one-out likelihood of unit rows (N, d).

    From d/16 to 16 d in factors of 2; extended at either end until the likelihood falls; then
    refined around the best.

    Args:
        z: Float64 rows of unit norm, at least two, without gradient.

    Returns:
        The concentration; inf where the likelihood grows beyond what float64 can tell apart, NaN
        where a row is not finite.
    """
    if not bool(z.isfinite().all()):
        return math.nan
    tiles = _cosine_tiles(z)
    dim = z.shape[1]
    values: dict[float, float] = {}

    def look(kappas: Sequence[float]) -> float:
        new = [k for k in kappas if k not in values]
        values.update(zip(new, _likelihoods(tiles, dim, new), strict=True))
        return max(values, key=lambda k: values[k])

    best = look([factor * dim for factor in _FIRST])
    while best == max(values) < _HIGHEST:
        best = look([2 * best])
    if best == max(values):
        return math.inf
    while best == min(values) > _LOWEST:
        best = look([best / 2])
    step = 2.0
    for _ in range(_REFINEMENTS):
        step = math.sqrt(step)
        best = look([best / step, best * step])
    return best


def _likelihoods(
    tiles: Callable[[], Iterable[Tensor]], dim: int, kappas: Sequence[float]
) -> list[float]:
    """Mean leave-one-out log density at each concentration, less a constant."""
    totals, count = [0.0] * len(kappas), 0
    for cosines in tiles():
        count += len(cosines)
        for index, kappa in enumerate(kappas):
            totals[index] += float((kappa * cosines).logsumexp(dim=1).sum())
    return [
        total / count + log_normalizer_value(dim, kappa)
        for total, kappa in zip(totals, kappas, strict=True)
    ]


def _cosine_tiles(z: Tensor) -> Callable[[], Iterable[Tensor]]:
    """Cosines of a few rows with all, their own left out; kept where they are few."""

    def make() -> Iterable[Tensor]:
        for start in range(0, len(z), _ROWS):
            cosines = z[start : start + _ROWS] @ z.T
            cosines.diagonal(start).fill_(-math.inf)
            yield cosines

    if len(z) ** 2 > _HELD:
        return make
    held = list(make())
    return lambda: held
