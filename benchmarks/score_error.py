"""How far is the estimated score from the true one, on samples whose density is known?

    python -m benchmarks.score_error

Draws exact von Mises-Fisher samples and compares the tangential part of ``stein_score`` with
kappa (mu - (mu.z) z): the paper's setting (euclidean, eta = 0.01), the sphere's identity with the
data-driven ridge, and both halves of that change alone. Writes
``benchmarks/results/score_error.json``.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from scipy.stats import vonmises_fisher
from torch import Tensor

from erssl.entropy import stein_score
from erssl.files import write_json
from erssl.run.directory import environment

SEEDS = range(100, 105)
DIMS, SIZES, KAPPAS_PER_DIM = (8, 32, 128), (256, 1024), (0.5, 2.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {"eta": 0.01, "geometry": "euclidean"},
    "euclidean auto": {"eta": "auto", "geometry": "euclidean"},
    "sphere 0.01": {"eta": 0.01, "geometry": "sphere"},
    "sphere auto": {"eta": "auto", "geometry": "sphere"},
}


def main() -> None:
    cells = []
    for dim in DIMS:
        for n in SIZES:
            for factor in KAPPAS_PER_DIM:
                cells.append(measure(dim, n, factor * dim))
                print(table(cells[-1:]).splitlines()[-1], flush=True)
    ratios = [cell["sphere auto"] / cell["paper"] for cell in cells]
    summary = {
        "mean_of_ratios": mean(ratios),
        "ratio_of_means": mean(c["sphere auto"] for c in cells) / mean(c["paper"] for c in cells),
        "worst_ratio": max(ratios),
    }
    report = {"seeds": list(SEEDS), "cells": cells, **summary, "environment": environment()}
    report["environment"]["command"] = "python -m benchmarks.score_error"
    write_json(Path(__file__).parent / "results" / "score_error.json", report)
    print(table(cells))
    print(summary)


def measure(dim: int, n: int, kappa: float) -> dict[str, Any]:
    """Mean relative error of each setting over the seeds."""
    errors: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for seed in SEEDS:
        mu = np.eye(dim)[0]
        z = torch.from_numpy(vonmises_fisher(mu, kappa).rvs(n, random_state=seed)).float()
        truth = tangential(torch.from_numpy(kappa * mu).float().expand_as(z), z)
        for name, options in SETTINGS.items():
            difference = tangential(stein_score(z, **options), z) - truth
            errors[name].append(float(difference.norm() / truth.norm()))
    cell = {"dim": dim, "n": n, "kappa": kappa}
    return cell | {name: mean(values) for name, values in errors.items()}


def tangential(vectors: Tensor, z: Tensor) -> Tensor:
    """Part of each row that is tangential to the sphere at the row of ``z``."""
    return vectors - (vectors * z).sum(dim=1, keepdim=True) * z


def table(cells: list[dict[str, Any]]) -> str:
    """Markdown table of relative errors."""
    names = list(SETTINGS)
    lines = [
        f"| d | N | kappa | {' | '.join(names)} | sphere auto / paper |",
        "|" + "---|" * (len(names) + 4),
    ]
    for cell in cells:
        values = " | ".join(f"{cell[name]:.3f}" for name in names)
        ratio = cell["sphere auto"] / cell["paper"]
        where = f"| {cell['dim']} | {cell['n']} | {cell['kappa']:g}"
        lines.append(f"{where} | {values} | {ratio:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
