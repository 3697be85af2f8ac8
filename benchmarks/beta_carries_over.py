"""Does the best weight of the entropy stay the same when only the rows of a score change?

    python -m benchmarks.beta_carries_over <folder with train/ and test/> [--runs runs/beta]

CIFAR-10 images, batch 1024, learning rate and steps fixed; score_rows 64, 256 and 1024, five values
of beta, two seeds, for the paper's estimate of MVEB's score, the sphere's with its data-driven
ridge, and ``method=mveb_stable``: 90 runs of ``erssl pretrain``, each in a folder of its own under
``--runs``. A run that is complete is not made again and one that was stopped goes on, so that the
study can be ended and begun at any time; the table and
``benchmarks/results/beta_carries_over.json`` are of the runs that are complete. The best beta of an
estimate and a number of rows is that of the highest mean kNN accuracy over the seeds.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from benchmarks._runs import COMMON, RESULTS, pretrain, summary
from erssl.files import write_json
from erssl.run.directory import environment

ROWS, SEEDS, BATCH, EPOCHS = (64, 256, 1024), (0, 1), 1024, 10
ESTIMATES = {
    "paper": ("method=mveb",),
    "sphere auto": ("method=mveb", "method.geometry=sphere", "method.eta=auto"),
    "stable": ("method=mveb_stable",),
}
# factors of 2 round where each estimate is expected to be at its best with 256 rows, d = 256
BETAS = {
    "paper": (0.0025, 0.005, 0.01, 0.02, 0.04),
    "sphere auto": (0.0075, 0.015, 0.03, 0.06, 0.12),
    "stable": (0.0075, 0.015, 0.03, 0.06, 0.12),
}


class Run(NamedTuple):
    """One training of the study."""

    estimate: str
    score_rows: int
    beta: float
    seed: int

    @property
    def folder(self) -> str:
        """Name of its run directory."""
        estimate = self.estimate.replace(" ", "-")
        return f"{estimate}-rows{self.score_rows}-beta{self.beta:g}-seed{self.seed}"


def all_runs() -> list[Run]:
    """Those of the first seed first, so that a part of the study tells something."""
    return [
        Run(estimate, rows, beta, seed)
        for seed, estimate, rows in itertools.product(SEEDS, ESTIMATES, ROWS)
        for beta in BETAS[estimate]
    ]


def settings(run: Run, options: argparse.Namespace) -> list[str]:
    """Overrides of ``erssl pretrain``, without folders."""
    return [
        *ESTIMATES[run.estimate],
        *COMMON,
        "method.target=shared",
        "optimizer.base_lr=0.06",
        "optimizer.warmup_epochs=1",
        f"method.score_rows={run.score_rows}",
        f"method.beta={run.beta:g}",
        f"batch_size={options.batch}",
        f"epochs={options.epochs}",
        f"seed={run.seed}",
        "evaluation.linear=false",
        "evaluation.untrained=false",
        "lens.on_collapse=ignore",
        "data.pipeline=device",
        *options.override,
    ]


def main(options: argparse.Namespace) -> None:
    paths = [
        f"data.train_dir={options.images / 'train'}",
        f"data.val_dir={options.images / 'test'}",
    ]
    done: list[dict[str, Any]] = []
    for run in all_runs()[: options.first]:
        run_dir, overrides = options.runs / run.folder, settings(run, options)
        if not (run_dir / "results.json").is_file():
            again = ["resume=true"] if (run_dir / "checkpoints").is_dir() else []
            pretrain([*overrides, *again], paths, run_dir)
        done.append(run._asdict() | summary(run_dir, overrides))
        write(done, options.output)
    print(table(done))


def write(done: list[dict[str, Any]], output: Path) -> None:
    """Write what is known so far."""
    report = {"runs": done, "best": best_betas(done), "environment": environment()}
    report["environment"]["command"] = "python -m benchmarks.beta_carries_over"
    write_json(output, report)


def best_betas(done: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Best beta of each estimate and number of rows, and how many factors of 2 it moves."""
    cells: dict[tuple[str, int], dict[float, list[float]]] = {}
    for run in done:
        of_betas = cells.setdefault((run["estimate"], run["score_rows"]), {})
        of_betas.setdefault(run["beta"], []).append(run["metrics"]["knn_top1"])
    best = []
    for (estimate, rows), of_betas in cells.items():
        means = {beta: mean(values) for beta, values in of_betas.items()}
        beta = max(means, key=lambda beta: means[beta])
        best.append({"estimate": estimate, "score_rows": rows, "beta": beta, "knn": means})
    for estimate in {cell["estimate"] for cell in best}:
        of = [cell for cell in best if cell["estimate"] == estimate]
        moved = math.log2(max(c["beta"] for c in of) / min(c["beta"] for c in of))
        for cell in of:
            cell["moves_by_factors_of_2"] = moved
    return best


def table(done: list[dict[str, Any]]) -> str:
    """Markdown: mean kNN accuracy in per cent, the best beta of a row in bold."""
    lines = ["| estimate | rows | kNN by beta | best moves by |", "|---|---|---|---|"]
    for cell in best_betas(done):
        values = [
            f"**{beta:g}: {100 * knn:.1f}**"
            if beta == cell["beta"]
            else f"{beta:g}: {100 * knn:.1f}"
            for beta, knn in sorted(cell["knn"].items())
        ]
        moved = f"2^{cell['moves_by_factors_of_2']:.0f}"
        shown = f"| {cell['estimate']} | {cell['score_rows']} | {', '.join(values)}"
        lines.append(f"{shown} | {moved} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/beta"))
    parser.add_argument("--output", type=Path, default=RESULTS / "beta_carries_over.json")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--first", type=int, help="make only the first of the runs")
    parser.add_argument("override", nargs="*", help="further overrides of erssl pretrain")
    main(parser.parse_intermixed_args())
