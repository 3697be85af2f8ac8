"""How far is the estimated score from the true one, on samples whose density is known?

    python -m benchmarks.score_error

Draws exact samples of three densities on the sphere and compares the tangential part of
``stein_score`` with the true score: von Mises-Fisher, a mixture of eight of them with orthogonal
means, and Watson's exp(k (mu.z)^2), which has no mean. Settings: the paper's (euclidean, eta =
0.01), the sphere's identity with the data-driven ridge, and that one shrunk towards a von
Mises-Fisher density (``method=mveb_stable``); on some cells both halves of the second change, too.
Each has its relative error, 1 that of predicting zero, and its size <estimate, truth> / <truth,
truth>. Writes ``benchmarks/results/score_error.json``.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import uniform_direction, vonmises_fisher
from torch import Tensor

from erssl.entropy import stein_score
from erssl.files import write_json
from erssl.run.directory import environment

SEEDS = range(100, 105)
FEWER_SEEDS = range(100, 102)  # of more than 1024 rows
DIMS, SIZES, KAPPAS_PER_DIM = (8, 32, 128, 512), (64, 256, 1024, 4096), (0.5, 2.0)
MOST_COLUMNS = 2**19  # of all rows: the largest cells of 512 dimensions are left out
CLUSTERS = 8
SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {"eta": 0.01, "geometry": "euclidean"},
    "sphere auto": {"eta": "auto", "geometry": "sphere"},
    "stable": {"eta": "auto", "geometry": "sphere", "shrink_to": "vmf"},
}
HALVES: dict[str, dict[str, Any]] = {
    "euclidean auto": {"eta": "auto", "geometry": "euclidean"},
    "sphere 0.01": {"eta": 0.01, "geometry": "sphere"},
}
HALVES_OF = ((8, 32, 128), (256, 1024))  # dimensions and rows, of the von Mises-Fisher density


def main() -> None:
    cells = []
    for density in ("vmf", "mixture", "watson"):
        for dim in DIMS:
            for factor in KAPPAS_PER_DIM:
                for n in SIZES:
                    if n * dim > MOST_COLUMNS or (density != "vmf" and n > 1024):
                        continue
                    cells.append(measure(density, dim, n, factor * dim))
                    print(row(cells[-1]), flush=True)
    report = {"cells": cells, "summary": summary(cells), "environment": environment()}
    report["environment"]["command"] = "python -m benchmarks.score_error"
    write_json(Path(__file__).parent / "results" / "score_error.json", report)
    print(report["summary"])


def measure(density: str, dim: int, n: int, kappa: float) -> dict[str, Any]:
    """Mean error and size of each setting over the seeds."""
    seeds = SEEDS if n <= 1024 else FEWER_SEEDS
    settings = dict(SETTINGS)
    if density == "vmf" and dim in HALVES_OF[0] and n in HALVES_OF[1]:
        settings |= HALVES
    taken: dict[str, dict[str, list[float]]] = {s: {"error": [], "size": []} for s in settings}
    for seed in seeds:
        z, truth = sample(density, dim, n, kappa, seed)
        for name, options in settings.items():
            score = tangential(stein_score(z, **options), z)
            taken[name]["error"].append(float((score - truth).norm() / truth.norm()))
            taken[name]["size"].append(float((score * truth).sum() / truth.square().sum()))
    cell: dict[str, Any] = {"density": density, "dim": dim, "n": n, "kappa": kappa}
    cell["seeds"] = len(seeds)
    return cell | {
        name: {key: mean(values) for key, values in of.items()} for name, of in taken.items()
    }


def sample(density: str, dim: int, n: int, kappa: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows (n, dim) of a density and its tangential score at each."""
    draw = {"vmf": _vmf, "mixture": _mixture, "watson": _watson}[density]
    rows, score = draw(dim, n, kappa, seed)
    z = torch.from_numpy(rows).float()
    return z, tangential(torch.from_numpy(score).float(), z)


Rows = NDArray[np.float64]


def _vmf(dim: int, n: int, kappa: float, seed: int) -> tuple[Rows, Rows]:
    mu = np.eye(dim)[0]
    rows = vonmises_fisher(mu, kappa).rvs(n, random_state=seed)
    return rows, np.broadcast_to(kappa * mu, rows.shape).copy()


def _mixture(dim: int, n: int, kappa: float, seed: int) -> tuple[Rows, Rows]:
    generator = np.random.default_rng(seed)
    means = np.eye(dim)[:CLUSTERS]
    rows = np.empty((n, dim))
    cluster = generator.integers(CLUSTERS, size=n)
    for number, mu in enumerate(means):
        count = int((cluster == number).sum())
        if count:
            drawn = vonmises_fisher(mu, kappa).rvs(count, random_state=generator)
            rows[cluster == number] = drawn.reshape(count, dim)
    exponents = kappa * rows @ means.T
    weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    return rows, kappa * (weights / weights.sum(axis=1, keepdims=True)) @ means


def _watson(dim: int, n: int, k: float, seed: int) -> tuple[Rows, Rows]:
    generator = np.random.default_rng(seed)
    grid = np.linspace(-1, 1, 200_001)[1:-1]
    logs = k * grid**2 + (dim - 3) / 2 * np.log1p(-(grid**2))
    density = np.exp(logs - logs.max())
    along = generator.choice(grid, n, p=density / density.sum())[:, None]
    across = uniform_direction(dim - 1).rvs(n, random_state=generator)
    rows = np.concatenate([along, across * np.sqrt(1 - along**2)], axis=1)
    return rows, 2 * k * along * np.eye(dim)[:1]


def tangential(vectors: Tensor, z: Tensor) -> Tensor:
    """Part of each row that is tangential to the sphere at the row of ``z``."""
    return vectors - (vectors * z).sum(dim=1, keepdim=True) * z


def summary(cells: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each density up to d = 128: smallest and largest size, and error against the paper's."""
    answer = {}
    for density in ("vmf", "mixture", "watson"):
        of = [c for c in cells if c["density"] == density and c["dim"] <= 128]
        for name in SETTINGS:
            sizes = [c[name]["size"] for c in of]
            ratios = [c[name]["error"] / c["paper"]["error"] for c in of]
            answer[f"{density}, {name}"] = {
                "smallest_size": min(sizes),
                "largest_size": max(sizes),
                "mean_error_ratio": mean(ratios),
                "worst_error_ratio": max(ratios),
            }
    return answer


def row(cell: dict[str, Any]) -> str:
    """A line of a Markdown table: size and error of each setting."""
    values = " | ".join(f"{cell[s]['size']:.2f} / {cell[s]['error']:.2f}" for s in SETTINGS)
    where = f"| {cell['density']} | {cell['dim']} | {cell['kappa']:g} | {cell['n']}"
    return f"{where} | {values} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
