"""How long does kNN take, and how much memory, beside lightly's and scikit-learn's?

    python -m benchmarks.knn

50,000 training and 10,000 validation features of 512 dimensions, k = 200, temperature 0.1, with 10
and 1,000 classes. Each contender runs in a process of its own; memory is the growth of its peak
resident size after the features exist. lightly is run as its ``KNNClassifier`` does it: training
features normalised by the batch, joined, transposed and copied, then ``knn_predict`` on batches of
256. scikit-learn's ``KNeighborsClassifier`` searches unit vectors by brute force, whose order by
distance is that by cosine, with the same votes. The floor is the time of the similarities'
arithmetic alone, 2 N M d operations at the rate of this machine's matrix product. Writes
``benchmarks/results/knn.json``.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking import knn_predict
from torch import Tensor

from benchmarks._runs import RESULTS
from benchmarks._timing import product_rate
from erssl.evaluation import Features, knn_accuracy, knn_scores
from erssl.files import write_json
from erssl.run.directory import environment

N, M, DIM, K, TEMPERATURE = 50_000, 10_000, 512, 200, 0.1
CLASSES = (10, 1000)
BATCH, REPEATS = 256, 3
COSTS = ("seconds", "cpu_seconds", "peak_mib")
NOISE = 4.0  # beside centres of deviation 1; neither too easy nor at chance


def main() -> None:
    rows, rate = [], product_rate(BATCH, N, DIM)
    for classes in CLASSES:
        rows += compare(classes)
    floor = 2 * N * M * DIM / rate
    report = {
        "command": "python -m benchmarks.knn",
        "setting": {"n": N, "m": M, "dim": DIM, "k": K, "temperature": TEMPERATURE},
        "threads": torch.get_num_threads(),
        "repeats": REPEATS,
        "matrix_product_gflops": rate / 1e9,
        "floor_seconds": floor,
        "rows": rows,
        "environment": environment(),
    }
    report["environment"]["command"] = report["command"]
    write_json(RESULTS / "knn.json", report)
    print(f"\n{table(rows)}")
    print(f"\nfloor: {floor:.2f} s, at {rate / 1e9:.0f} GFLOP/s of the matrix product")


def compare(classes: int) -> list[dict[str, Any]]:
    """Contenders by turns, so that all meet the same load, and whether they agree."""
    rounds = [{name: in_own_process(name, classes) for name in CONTENDERS} for _ in range(REPEATS)]
    rows = []
    for name in CONTENDERS:
        runs = [done[name] for done in rounds]
        own, reference = runs[0]["predictions"], rounds[0]["lightly"]["predictions"]
        rows.append(
            {
                "classes": classes,
                "contender": name,
                **{cost: [run[cost] for run in runs] for cost in COSTS},
                "top1": runs[0]["top1"],
                "differ_from_lightly": None if own is None else int((own != reference).sum()),
            }
        )
        print(table(rows).splitlines()[-1], flush=True)
    return rows


def in_own_process(name: str, classes: int) -> dict[str, Any]:
    """What :func:`measure` gives in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured.pt"
        arguments = ["--contender", name, "--classes", str(classes), "--file", str(file)]
        subprocess.run([sys.executable, "-m", "benchmarks.knn", *arguments], check=True)
        measured: dict[str, Any] = torch.load(file)
        return measured


def lightly(train: Features, val: Features, classes: int) -> Tensor:
    """Predictions (M,) in the steps of lightly's ``KNNClassifier``."""
    stored = [F.normalize(batch, dim=1) for batch in train.features.split(BATCH)]
    bank = torch.cat(stored, dim=0)
    stored.clear()
    bank = bank.t().contiguous()
    ranked = []
    for batch in val.features.split(BATCH):
        queries = F.normalize(batch, dim=1)
        predicted = knn_predict(queries, bank, train.labels, classes, K, TEMPERATURE)
        ranked.append(predicted[:, 0].clone())
    return torch.cat(ranked)


def scores(train: Features, val: Features, classes: int) -> Tensor:
    """Predictions (M,) from our votes of all classes."""
    return knn_scores(train, val, classes, K, TEMPERATURE).argmax(dim=1)


def accuracy(train: Features, val: Features, classes: int) -> float:
    """Our accuracy, which keeps no votes."""
    return knn_accuracy(train, val, classes, K, TEMPERATURE)


def scikit_learn(train: Features, val: Features, classes: int) -> Tensor:
    """Predictions (M,) of scikit-learn's classifier, with the same votes."""
    from sklearn.neighbors import KNeighborsClassifier

    def votes(distances: Any) -> Any:
        return np.exp((1 - distances**2 / 2) / TEMPERATURE)

    model = KNeighborsClassifier(K, weights=votes, algorithm="brute")
    unit = [F.normalize(f.features, dim=1).numpy() for f in (train, val)]
    return torch.from_numpy(model.fit(unit[0], train.labels.numpy()).predict(unit[1]))


CONTENDERS: dict[str, Callable[[Features, Features, int], Tensor | float]] = {
    "lightly": lightly,
    "scikit-learn": scikit_learn,
    "knn_scores": scores,
    "knn_accuracy": accuracy,
}


def measure(name: str, classes: int) -> dict[str, Any]:
    """Time and memory of one contender in this process."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, DIM, generator=generator)
    train, val = (clouds(n, centres, generator) for n in (N, M))
    before, start, cpu = peak(), time.perf_counter(), time.process_time()
    result = CONTENDERS[name](train, val, classes)
    cost = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,  # tells less of a busy machine
        "peak_mib": (peak() - before) / 2**20,
    }
    predictions = None if isinstance(result, float) else result
    top1 = result if predictions is None else float((predictions == val.labels).double().mean())
    return {**cost, "top1": top1, "predictions": predictions}


def clouds(n: int, centres: Tensor, generator: torch.Generator) -> Features:
    """Noise around the classes' centres, drawn in place so that memory never was higher."""
    labels = torch.randint(len(centres), (n,), generator=generator)
    features = torch.empty(n, centres.shape[1]).normal_(generator=generator).mul_(NOISE)
    for rows, own in zip(features.split(1000), labels.split(1000), strict=True):
        rows += centres[own]
    return Features(features, labels)


def peak() -> int:
    """Highest resident size so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of times and memory."""
    lines = [
        "| classes | contender | median s | CPU s | peak MiB | top-1 | unlike lightly's |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        differ = "–" if row["differ_from_lightly"] is None else row["differ_from_lightly"]
        lines.append(
            f"| {row['classes']} | {row['contender']} | {median(row['seconds']):.2f} | "
            f"{median(row['cpu_seconds']):.2f} | "
            f"{median(row['peak_mib']):.0f} | {row['top1']:.4f} | {differ} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--contender", choices=list(CONTENDERS))
    parser.add_argument("--classes", type=int)
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    if options.contender is None:
        main()
    else:
        torch.save(measure(options.contender, options.classes), options.file)
