"""How long does the path of 45 penalties take beside scikit-learn's protocol?

    python -m benchmarks.transfer_path

5,000 × 2,048 features of 47 classes, and 1,000 held-out rows that choose the penalty. The features
are made, not a network's: 256 Gaussian factors of falling variance, the first 48 of which carry the
class, mixed, with noise and a ReLU, into non-negative features two thirds of which are 0; 12 % of
the labels are drawn at random, as classes of textures overlap. About 70 % are classified right at
the best penalty, which lies inside the path.

scikit-learn fits ``LogisticRegression(solver="lbfgs", warm_start=True)`` to the same float32
matrix, its faster type here, one penalty after another from the largest to the smallest, its faster
order, as ours does. Both are asked for the same tolerance, scikit-learn's default, 1e-4, and ours,
1e-6, each in processes of its own by turns; the medians are compared. A fit has converged if the
gradient, computed in float64 from its coefficients, is within the tolerance; scikit-learn ends,
too, where the loss stands still. A process that has not ended after ``LIMIT`` seconds is stopped,
and only the fits that it ended are compared. Writes ``benchmarks/results/transfer_path.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks._runs import RESULTS
from erssl.downstream.transfer.linear_transfer import LAMBDAS
from erssl.downstream.transfer.logistic import logistic_fits
from erssl.evaluation import Features
from erssl.files import write_json
from erssl.run.directory import environment

N, HELD_OUT, DIM, CLASSES = 5000, 1000, 2048, 47
FACTORS, INFORMATIVE, SPREAD, RANDOM_LABELS = 256, 48, 0.62, 0.12
PENALTIES, TOLERANCES = LAMBDAS[::-1], (1e-4, 1e-6)
CONTENDERS = ("erssl", "scikit-learn")
TURNS = (*CONTENDERS, *CONTENDERS, "erssl")
MAX_ITER, LIMIT = 20_000, 420


def main() -> None:
    comparisons = []
    for tolerance in TOLERANCES:
        comparisons.append(compare(tolerance))
        print(f"\n{table(comparisons)}\n", flush=True)
    report = {
        "command": "python -m benchmarks.transfer_path",
        "setting": {
            "n": N,
            "held_out": HELD_OUT,
            "dim": DIM,
            "classes": CLASSES,
            "factors": FACTORS,
            "informative": INFORMATIVE,
            "spread": SPREAD,
            "random_labels": RANDOM_LABELS,
            "seed": 0,
            "max_iter": MAX_ITER,
        },
        "threads": torch.get_num_threads(),
        "limit_seconds": LIMIT,
        "comparisons": comparisons,
        "environment": environment(),
    }
    report["environment"]["command"] = report["command"]
    write_json(RESULTS / "transfer_path.json", report)


def compare(tolerance: float) -> dict[str, Any]:
    """Both contenders at one tolerance, on the fits that all ended."""
    runs = [(name, in_own_process(name, tolerance)) for name in TURNS]
    common = min(len(fits) for _, fits in runs)
    compared = {own: [fits[:common] for name, fits in runs if name == own] for own in CONTENDERS}
    costs = {
        cost: {
            own: [sum(fit[cost] for fit in fits) for fits in compared[own]] for own in CONTENDERS
        }
        for cost in ("seconds", "cpu_seconds")
    }
    ratios = {
        f"ratio_{cost}": median(spent["scikit-learn"]) / median(spent["erssl"])
        for cost, spent in costs.items()
    }
    first = {own: fits[0] for own, fits in compared.items()}
    pairs = list(zip(first["erssl"], first["scikit-learn"], strict=True))
    return {
        "tolerance": tolerance,
        "penalties_asked": len(PENALTIES),
        "penalties_compared": common,
        **costs,
        **ratios,
        "iterations": {
            name: sum(fit["iterations"] for fit in fits[:common]) for name, fits in runs
        },
        "converged": {own: sum(fit["converged"] for fit in fits) for own, fits in first.items()},
        "selected": {own: selected(fits) for own, fits in first.items()},
        "max_relative_loss_difference": max(abs(a["loss"] / b["loss"] - 1) for a, b in pairs),
        "max_loss_difference_nats_per_row": max(abs(a["loss"] - b["loss"]) / N for a, b in pairs),
        "max_accuracy_difference": max(abs(a["accuracy"] - b["accuracy"]) for a, b in pairs),
        "fits": first,
    }


def selected(fits: list[dict[str, Any]]) -> dict[str, float]:
    """Penalty of the highest accuracy on the held-out rows; of equal ones the largest."""
    best = max(fits, key=lambda fit: (fit["accuracy"], fit["lambda"]))
    return {"lambda": best["lambda"], "accuracy": best["accuracy"]}


def in_own_process(name: str, tolerance: float) -> list[dict[str, Any]]:
    """Fits of one contender that ended within the limit."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fits.jsonl"
        arguments = ["--contender", name, "--tolerance", str(tolerance), "--file", str(file)]
        command = [sys.executable, "-m", "benchmarks.transfer_path", *arguments]
        try:
            subprocess.run(command, check=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            print(f"{name} stopped after {LIMIT} s", flush=True)
        fits = [json.loads(line) for line in file.read_text().splitlines()]
    print(f"{name} {tolerance:g}: {len(fits)} fits, {sum(f['seconds'] for f in fits):.1f} s")
    return fits


def run(name: str, tolerance: float, file: Path) -> None:
    """Fit, and write a line a fit as it ends; what is said about a fit is not in its time."""
    train, held_out = made_features()
    fits = (erssl if name == "erssl" else scikit_learn)(train, tolerance)
    with file.open("w") as lines:
        start, cpu = time.perf_counter(), time.process_time()
        for lam, weight, bias, iterations in fits:
            row = {
                "lambda": lam,
                "seconds": time.perf_counter() - start,
                "cpu_seconds": time.process_time() - cpu,
                "iterations": iterations,
            }
            loss, norm = objective(train, weight, bias, lam)
            right = (held_out.features.double() @ weight.T + bias).argmax(dim=1) == held_out.labels
            row |= {"converged": norm <= 1.01 * tolerance, "gradient_norm": norm, "loss": loss}
            print(json.dumps(row | {"accuracy": float(right.double().mean())}), file=lines)
            lines.flush()
            start, cpu = time.perf_counter(), time.process_time()


Made = Iterator[tuple[float, Tensor, Tensor, int]]


def erssl(train: Features, tolerance: float) -> Made:
    """Ours; the first fit's time holds that of the principal axes."""
    options = {"tolerance": tolerance, "max_iter": MAX_ITER}
    for fit in logistic_fits(*train, CLASSES, PENALTIES, **options):
        yield fit.lam, fit.weight, fit.bias, fit.iterations


def scikit_learn(train: Features, tolerance: float) -> Made:
    """scikit-learn's protocol."""
    model = LogisticRegression(solver="lbfgs", tol=tolerance, max_iter=MAX_ITER, warm_start=True)
    matrix, labels = train.features.numpy(), train.labels.numpy()
    for lam in PENALTIES:
        model.set_params(C=1 / lam)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(matrix, labels)
        weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
        yield lam, weight.double(), bias.double(), int(model.n_iter_[0])


def objective(train: Features, weight: Tensor, bias: Tensor, lam: float) -> tuple[float, float]:
    """scikit-learn's objective and the largest entry of its gradient / N, in float64."""
    features = train.features.double()
    logits = features @ weight.T + bias
    loss = F.cross_entropy(logits, train.labels, reduction="sum") + lam / 2 * weight.square().sum()
    residuals = logits.softmax(dim=1)
    residuals[torch.arange(N), train.labels] -= 1
    gradient = torch.cat([residuals.T @ features + lam * weight, residuals.sum(dim=0)[:, None]], 1)
    return float(loss), float(gradient.abs().max()) / N


def made_features() -> tuple[Features, Features]:
    """Training and held-out rows."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows = N + HELD_OUT
    scale = torch.arange(1, FACTORS + 1) ** -0.5
    centres = normal(CLASSES, FACTORS) * scale * SPREAD
    centres[:, INFORMATIVE:] = 0
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    factors = centres[labels] + normal(rows, FACTORS) * scale
    mixed = factors @ normal(FACTORS, DIM) / scale.norm()
    features = torch.relu(mixed + 0.5 * normal(rows, DIM) - 0.5)
    other = torch.randint(CLASSES, (rows,), generator=generator)
    labels = torch.where(torch.rand(rows, generator=generator) < RANDOM_LABELS, other, labels)
    return Features(features[:N], labels[:N]), Features(features[N:], labels[N:])


def table(comparisons: list[dict[str, Any]]) -> str:
    """Markdown table of both contenders at each tolerance."""
    lines = [
        "| tolerance | contender | fits | converged | iterations | s | selected λ | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for comparison in comparisons:
        for name in CONTENDERS:
            seconds = " / ".join(f"{value:.1f}" for value in comparison["seconds"][name])
            chosen = comparison["selected"][name]
            lines.append(
                f"| {comparison['tolerance']:g} | {name} | {comparison['penalties_compared']} of "
                f"{comparison['penalties_asked']} | {comparison['converged'][name]} | "
                f"{comparison['iterations'][name]} | {seconds} | {chosen['lambda']:.3g} | "
                f"{chosen['accuracy']:.3f} |"
            )
        lines.append(
            f"| {comparison['tolerance']:g} | ratio {comparison['ratio_seconds']:.1f} | | | | | | "
            f"differ by at most {comparison['max_accuracy_difference']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--contender", choices=CONTENDERS)
    parser.add_argument("--tolerance", type=float)
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    if options.contender is None:
        main()
    else:
        run(options.contender, options.tolerance, options.file)
