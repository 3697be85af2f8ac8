"""What does every estimator of erssl.entropy read of densities whose entropy is known?

    python -m benchmarks.entropy_estimators          # measure; writes the JSON, then the page
    python -m benchmarks.entropy_estimators --page   # write the tables of docs/entropy.md only

Writes ``benchmarks/results/entropy_estimators.json`` and the tables of ``docs/entropy.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from benchmarks import _densities as densities
from benchmarks._pages import write_tables
from benchmarks._runs import RESULTS
from erssl.entropy import (
    coding_rate,
    discrete_entropy,
    entropy_from_score,
    gaussian_entropy,
    kde_entropy,
    knn_entropy,
    marginal_entropy,
    matrix_renyi2_entropy,
    random_directions,
    sliced_epps_pulley,
    sliced_wasserstein,
    sphere_log_area,
    stein_score,
    von_neumann_entropy,
)
from erssl.evaluation import lens_reading
from erssl.files import write_json
from erssl.run.directory import environment

FILE = RESULTS / "entropy_estimators.json"
PAGE = Path(__file__).parent.parent / "docs" / "entropy.md"
SIZES = (64, 256, 1024, 4096)
SEEDS = {64: 8, 256: 5, 1024: 3, 4096: 2}
SCORE_ROWS = 1024  # beyond them the score, no entropy, is left out
SLICES = 256
DISTORTION = 0.5  # SimDINO's
DENSITIES: dict[int, Callable[[], list[densities.Density]]] = {
    8: lambda: [
        densities.uniform(8),
        densities.vmf(8, 16),
        densities.cone(8, 0.95),
        densities.mixture(8, 10, 200),
        densities.subspace(8, 3, 0.01),
    ],
    128: lambda: [
        densities.uniform(128),
        densities.vmf(128, 128),
        densities.cone(128, 0.95),
        densities.mixture(128, 100, 2000),
        densities.subspace(128, 32, 0.01),
    ],
    2048: lambda: [
        densities.uniform(2048),
        densities.vmf(2048, 2048),
        densities.cone(2048, 0.95),
        densities.mixture(2048, 100, 20000),
        densities.subspace(2048, 128, 0.01),
    ],
}


def _on_sphere(estimate: Callable[[Tensor], Tensor]) -> Callable[[Tensor], float]:
    """Nats below uniform of an entropy on the sphere."""
    return lambda z: float(estimate(z)) - sphere_log_area(z.shape[1])


def _gaussian(z: Tensor) -> float:
    """Less the value of a Gaussian of the uniform density's covariance, I / d."""
    dim = z.shape[1]
    return float(gaussian_entropy(z)) - 0.5 * dim * math.log(2 * math.pi * math.e / dim)


def _coding_rate(z: Tensor) -> float:
    ceiling = 0.5 * z.shape[1] * math.log(1 + 1 / DISTORTION)
    return float(coding_rate(z, DISTORTION)) - ceiling


def _marginal(z: Tensor) -> float:
    """Of rows times √d, less that of as many standard Gaussians."""
    dim = z.shape[1]
    gaussian = 0.5 * dim * math.log(2 * math.pi * math.e)
    return float(marginal_entropy(z * math.sqrt(dim))) - gaussian


def _sliced(distance: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], float]:
    def read(z: Tensor) -> float:
        directions = random_directions(z.shape[1], SLICES, torch.Generator().manual_seed(0))
        return float(distance(z * math.sqrt(z.shape[1]), directions))

    return read


ESTIMATORS: dict[str, Callable[[Tensor], float]] = {
    "KDE, best κ (held out)": _on_sphere(lambda z: kde_entropy(z, "best")),
    "Kozachenko–Leonenko, k = 3": _on_sphere(knn_entropy),
    "KDE κ = 10, leave-one-out": _on_sphere(lambda z: kde_entropy(z, 10.0)),
    "KDE κ = 10, self term": _on_sphere(lambda z: kde_entropy(z, 10.0, leave_one_out=False)),
    "KDE κ = d, leave-one-out": _on_sphere(lambda z: kde_entropy(z, float(z.shape[1]))),
    "Gaussian": _gaussian,
    "marginal sum": _marginal,
    "coding rate, ε² = 0.5": _coding_rate,
    "von Neumann": lambda z: float(von_neumann_entropy(z)) - math.log(z.shape[1]),
    "matrix Rényi-2": lambda z: float(matrix_renyi2_entropy(z)) - math.log(z.shape[1]),
    "sliced Epps–Pulley": _sliced(sliced_epps_pulley),
    "sliced Wasserstein": _sliced(sliced_wasserstein),
    "score (surrogate)": lambda z: float(entropy_from_score(z, stein_score(z))),
}
OUTCOMES = (10, 1000)
CLUSTERS = (1, 100, 1000)  # 1: independent views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="write the tables only")
    if not parser.parse_args().page:
        write_json(FILE, measured())
    write_tables(PAGE, tables(json.loads(FILE.read_text(encoding="utf-8"))))


def measured() -> dict[str, Any]:
    """All cells, with how they were made."""
    cells = []
    for dim, make in DENSITIES.items():
        for density in make():
            for n in SIZES:
                cells.append(cell(density, n, 1 if dim * n > 2**22 else SEEDS[n]))
                print(dim, density.name, n, cells[-1]["estimates"], flush=True)
    report = {
        "cells": cells,
        "discrete": [discrete_cell(count, n) for count in OUTCOMES for n in SIZES],
        "information": [information_cell(count) for count in CLUSTERS],
        "environment": environment(),
    }
    report["environment"]["command"] = "python -m benchmarks.entropy_estimators"
    return report


def cell(density: densities.Density, n: int, seeds: int) -> dict[str, Any]:
    """Mean, spread and seconds of every estimator on float32 rows of one density."""
    values: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    seconds: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for seed in range(seeds):
        z = density.draw(n, torch.Generator().manual_seed(1000 + seed)).float()
        for name, estimate in ESTIMATORS.items():
            if name.startswith("score") and n > SCORE_ROWS:
                continue
            start = time.perf_counter()
            values[name].append(estimate(z))
            seconds[name].append(time.perf_counter() - start)
    return {
        "density": density.name,
        "dim": density.dim,
        "n": n,
        "seeds": seeds,
        "nats": _rounded(density.nats),
        "estimates": {
            name: {
                "mean": _rounded(fmean(read)),
                "spread": _rounded(stdev(read))
                if len(read) > 1 and math.isfinite(fmean(read))
                else None,
                "seconds": _rounded(min(seconds[name])),
            }
            for name, read in values.items()
            if read
        },
    }


def discrete_cell(count: int, n: int, seeds: int = 20) -> dict[str, Any]:
    """The entropy of n one-hot outcomes of ``count``, of weights 1/1, 1/2, 1/3, …"""
    weights = 1 / torch.arange(1, count + 1, dtype=torch.float64)
    weights /= weights.sum()
    truth = -float((weights * weights.log()).sum())
    read = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        drawn = weights.multinomial(n, replacement=True, generator=generator)
        probs = torch.nn.functional.one_hot(drawn, count).float()
        read.append(float(discrete_entropy(probs)))
    spread = {"mean": _rounded(fmean(read)), "spread": _rounded(stdev(read))}
    return {"outcomes": count, "n": n, "seeds": seeds, "nats": _rounded(truth)} | spread


def information_cell(count: int, n: int = 256, dim: int = 128, seeds: int = 10) -> dict[str, Any]:
    """What the lens reads of views that are independent given one of ``count`` clusters.

    They share log ``count`` nats: clusters are so tight that no two overlap. One cluster is the
    uniform density, twice.
    """
    read = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        views = [torch.randn(n, dim, generator=generator, dtype=torch.float64) for _ in range(2)]
        if count > 1:
            means = torch.randn(count, dim, generator=generator, dtype=torch.float64)
            which = torch.randint(count, (n,), generator=generator)
            views = [means[which] + 1e-3 * view for view in views]
        read.append(lens_reading(views))
    names = [f"{kind}_k{kappa}" for kind in ("i_er", "infonce") for kappa in (3, 10, 30)]
    means_of = {name: _rounded(fmean(r[name] for r in read)) for name in names}
    return {"clusters": count, "n": n, "dim": dim, "seeds": seeds} | {
        "nats": _rounded(math.log(count)),
        "read": means_of,
    }


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's tables in Markdown, by name."""
    return {
        **{f"dim-{dim}": by_density(report["cells"], dim) for dim in DENSITIES},
        "rows": by_rows(report["cells"]),
        "seconds": by_seconds(report["cells"]),
        "discrete": of_outcomes(report["discrete"]),
        "information": of_views(report["information"]),
    }


def by_density(cells: list[dict[str, Any]], dim: int, n: int = 1024) -> str:
    """Readings of every estimator in one dimension, a column a density."""
    chosen = [c for c in cells if c["dim"] == dim and c["n"] == n]
    truths = [f"**{_shown(c['nats'])}**" for c in chosen]
    lines = [
        f"| d = {dim}, N = {n} | {' | '.join(c['density'] for c in chosen)} |",
        "|---" * (len(chosen) + 1) + "|",
        f"| **true** | {' | '.join(truths)} |",
    ]
    for name in ESTIMATORS:
        read = (c["estimates"][name] for c in chosen)
        lines.append(f"| {name} | {' | '.join(map(_with_spread, read))} |")
    return "\n".join(lines)


def by_rows(cells: list[dict[str, Any]]) -> str:
    """How four estimators come nearer as rows grow: reading less truth."""
    shown = [n for n in ESTIMATORS if n.split(",")[0] in ("KDE", "Kozachenko–Leonenko", "Gaussian")]
    shown.append("KDE κ = 10, leave-one-out")
    lines = [
        f"| density | d | true | estimator | {' | '.join(f'N = {n}' for n in SIZES)} |",
        "|---" * (4 + len(SIZES)) + "|",
    ]
    for dim in DENSITIES:
        for density in [c for c in cells if c["dim"] == dim and c["n"] == SIZES[0]][1:4]:
            row = [c for c in cells if (c["dim"], c["density"]) == (dim, density["density"])]
            for name in shown:
                read = [c["estimates"][name]["mean"] for c in row]
                errors = [None if value is None else value - density["nats"] for value in read]
                where = f"| {density['density']} | {dim} | {_shown(density['nats'])} | {name}"
                lines.append(f"{where} | {' | '.join(map(_shown, errors))} |")
    return "\n".join(lines)


def by_seconds(cells: list[dict[str, Any]]) -> str:
    """Seconds of one reading, the least over densities and seeds."""
    sizes = [(256, 128), (1024, 128), (256, 2048), (4096, 2048)]
    lines = [
        f"| estimator | {' | '.join(f'N = {n}, d = {dim}' for n, dim in sizes)} |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for name in ESTIMATORS:
        shown = []
        for size in sizes:
            read = [c["estimates"].get(name) for c in cells if (c["n"], c["dim"]) == size]
            taken = [r["seconds"] for r in read if r is not None]
            shown.append(f"{1000 * min(taken):.1f} ms" if taken else "")
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def of_outcomes(rows: list[dict[str, Any]]) -> str:
    """What the plug-in reads of discrete outcomes."""
    lines = ["| outcomes K | true | " + " | ".join(f"N = {n}" for n in SIZES) + " |"]
    lines.append("|---" * (2 + len(SIZES)) + "|")
    for count in OUTCOMES:
        chosen = [r for r in rows if r["outcomes"] == count]
        read = " | ".join(f"{r['mean']:.2f} ± {r['spread']:.2f}" for r in chosen)
        lines.append(f"| {count} | **{chosen[0]['nats']:.2f}** | {read} |")
    return "\n".join(lines)


def of_views(rows: list[dict[str, Any]]) -> str:
    """What is read of the information that two views share."""
    kappas = (3, 10, 30)
    lines = [
        "| views | true | log N | "
        + " | ".join(f"{kind}, κ = {k}" for kind in ("I_ER", "InfoNCE") for k in kappas)
        + " |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        views = f"{row['clusters']} tight clusters" if row["clusters"] > 1 else "independent"
        read = " | ".join(map(_shown, row["read"].values()))
        truth = f"**{_shown(row['nats'])}** | {_shown(math.log(row['n']))}"
        lines.append(f"| {views} | {truth} | {read} |")
    return "\n".join(lines)


def _with_spread(read: dict[str, Any]) -> str:
    shown = _shown(read["mean"])
    return shown if not read["spread"] else f"{shown} ± {_shown(read['spread'])}"


def _shown(value: float | None) -> str:
    if value is None:
        return "−∞"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    text = f"{value:.{digits}f}"
    return (text if float(text) else f"{0:.{digits}f}").replace("-", "−")


def _rounded(value: float) -> float | None:
    """Five digits; -inf, which JSON has no word for, as ``None``."""
    return None if value == -math.inf else float(f"{value:.5g}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
