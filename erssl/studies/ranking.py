"""How far readings without labels order runs as their accuracy does: Kendall's τ over pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from erssl.evaluation.label_free import goodness

_DRAWS, _TAILS = 400, (0.05, 0.95)  # of the bootstrap
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReadRun:
    """A finished run and what was read of it.

    Attributes:
        name: Its folder.
        method: Its method.
        setting: What it was trained and measured on, as JSON; only runs of one are compared.
        accuracy: kNN top-1, NaN where it was not measured.
        readings: Values without labels, by name.
        key: Digest of its resolved settings (:func:`erssl.studies.store.key_of`).
    """

    name: str
    method: str
    setting: str
    accuracy: float
    readings: Mapping[str, float]
    key: str = ""


@dataclass(frozen=True)
class Tau:
    """Kendall's τ-b over pairs, with the 5 % and 95 % of a bootstrap over runs."""

    value: float
    low: float
    high: float
    pairs: int


def tau_over_pairs(
    values: Sequence[float], others: Sequence[float], of: npt.NDArray[np.bool_]
) -> Tau:
    r"""Kendall's τ-b of two orders over some pairs of runs.

    Concordant less discordant pairs, divided by the geometric mean of the numbers of pairs that
    either order tells apart. Of all pairs it is scipy's ``kendalltau``. The bootstrap draws runs,
    with replacement, 400 times (seed 0); copies of a run make no pair.

    Args:
        values: One order (N,).
        others: The other (N,).
        of: Which pairs count, symmetric (N, N).

    Returns:
        τ, NaN where an order tells no pair apart.
    """
    first, second = (np.sign(np.subtract.outer(x, x)) for x in map(np.asarray, (values, others)))
    counted = np.triu(of, 1).astype(np.float64)
    agree = counted * first * second
    told = counted * np.abs(first), counted * np.abs(second)

    def tau(weights: Floats) -> Floats:
        both, one, two = (np.einsum("bi,ij,bj->b", weights, m, weights) for m in (agree, *told))
        with np.errstate(invalid="ignore", divide="ignore"):
            result: Floats = both / np.sqrt(one * two)
        return result

    n = len(first)
    value = float(tau(np.ones((1, n)))[0])
    drawn = np.random.default_rng(0).integers(0, n, size=(_DRAWS, n))
    weights = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)
    sample = tau(weights)
    sample = sample[np.isfinite(sample)]
    low, high = np.quantile(sample, _TAILS) if len(sample) else (np.nan, np.nan)
    return Tau(value, float(low), float(high), int(counted.sum()))


@dataclass(frozen=True)
class Ranked:
    """How a reading orders runs.

    Attributes:
        name: The reading.
        runs: How many runs have it.
        within: Over pairs of one method.
        across: Over pairs of two methods.
        every: Over all pairs.
    """

    name: str
    runs: int
    within: Tau
    across: Tau
    every: Tau


def rank_readings(runs: Sequence[ReadRun]) -> list[Ranked]:
    """τ of every reading against the accuracy, best over all pairs first.

    A pair is two runs of one setting. Readings are turned so that more is better
    (:func:`erssl.evaluation.label_free.goodness`); CLID is added, the sum of its parts, each less
    its mean and divided by its deviation over the runs of a setting.
    """
    table = [{**run.readings, **clid(runs, run)} for run in runs]
    names = list(dict.fromkeys(name for row in table for name in row))
    ranked = []
    for name in names:
        having = [i for i, row in enumerate(table) if np.isfinite(row.get(name, np.nan))]
        values = [goodness(name, table[i][name]) for i in having]
        accuracy = [runs[i].accuracy for i in having]
        settings, methods = (np.array([getattr(runs[i], key) for i in having]) for key in KEYS)
        if len(having) < 3:
            continue
        alike = np.equal.outer(settings, settings)
        same = np.equal.outer(methods, methods)
        taus = (tau_over_pairs(values, accuracy, of) for of in (alike & same, alike & ~same, alike))
        ranked.append(Ranked(name, len(having), *taus))
    return sorted(ranked, key=lambda each: -np.nan_to_num(each.every.value, nan=-2.0))


KEYS = ("setting", "method")
CLID = "clid"
_PARTS = ("cluster_learnability", "intrinsic_dimension")


def clid(runs: Sequence[ReadRun], run: ReadRun) -> dict[str, float]:
    """CLID of a run in each space, relative to the runs of its setting.

    The sum of cluster learnability and intrinsic dimension, each less its mean over these runs and
    divided by its deviation.
    """
    sums = {}
    for name in run.readings:
        space = name.removesuffix(_PARTS[0])
        if space == name or f"{space}{_PARTS[1]}" not in run.readings:
            continue
        total = 0.0
        for part in _PARTS:
            peers = [
                each.readings[f"{space}{part}"]
                for each in runs
                if each.setting == run.setting and f"{space}{part}" in each.readings
            ]
            deviation = float(np.nanstd(peers))
            mean = float(np.nanmean(peers))
            total += (run.readings[f"{space}{part}"] - mean) / deviation if deviation else 0.0
        sums[f"{space}{CLID}"] = total
    return sums
