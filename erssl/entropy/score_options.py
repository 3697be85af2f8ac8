"""The options of the score estimate, checked."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

from torch import Tensor

Geometry = Literal["euclidean", "sphere"]
ShrinkTo = Literal["zero", "vmf"]
Kernel = Literal["vmf", "rbf"]


class ScoreOptions(NamedTuple):
    """Those of :func:`erssl.entropy.stein_score`."""

    bandwidth: float | None
    eta: float | Literal["auto"]
    geometry: Geometry
    shrink_to: ShrinkTo
    columns: slice
    bandwidth_scale: float | Literal["auto"]
    kernel: Kernel


def check_score_rows(z: Tensor) -> None:
    """Refuse embeddings of another shape than (N, d) or (V, N, d), with a ValueError."""
    if z.ndim not in (2, 3) or z.shape[-2] < 1:
        raise ValueError(f"Embeddings must have shape (N, d) but have {tuple(z.shape)}.")


def check_score_options(options: ScoreOptions) -> None:
    """Refuse options that make no score, with a ValueError."""
    bandwidth, eta, geometry, shrink_to, _, scale, kernel = options
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"The bandwidth must be above 0 or None but is {bandwidth}.")
    if isinstance(eta, str) and eta != "auto":
        raise ValueError(f"eta must be a number or 'auto' but is {eta!r}.")
    if not isinstance(eta, str) and not 0 <= eta < math.inf:
        raise ValueError(f"eta must be at least 0 and finite but is {eta}.")
    if geometry not in get_args(Geometry):
        raise ValueError(f"The geometry must be 'euclidean' or 'sphere' but is {geometry!r}.")
    if shrink_to not in get_args(ShrinkTo):
        raise ValueError(f"The score must shrink to 'zero' or 'vmf' but shrink_to={shrink_to!r}.")
    if scale != "auto" and not _is_factor(scale):
        raise ValueError(f"bandwidth_scale must be a factor above 0 or 'auto' but is {scale!r}.")
    if bandwidth is not None and scale != 1:
        raise ValueError(
            f"bandwidth_scale={scale} multiplies the median and bandwidth={bandwidth} takes its "
            "place; give one of them."
        )
    if kernel not in get_args(Kernel):
        raise ValueError(f"The kernel must be 'vmf' or 'rbf' but is {kernel!r}.")
    plain = eta != "auto" and scale != "auto" and (geometry, shrink_to) == ("euclidean", "zero")
    if kernel == "rbf" and not plain:
        raise ValueError(
            "kernel='rbf' knows no sphere: it takes geometry='euclidean', shrink_to='zero' and "
            f"numbers for eta and bandwidth_scale, not {geometry!r}, {shrink_to!r}, {eta!r} and "
            f"{scale!r}."
        )


def _is_factor(scale: object) -> bool:
    return isinstance(scale, int | float) and 0 < scale < math.inf
