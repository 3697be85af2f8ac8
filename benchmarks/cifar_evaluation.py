"""What four protocols say of a backbone pretrained here, of the untrained one, and of raw pixels.

    python -m benchmarks.cifar_evaluation <folder with train/ and test/ of CIFAR-10 as images>

Pretraining, of two seeds, and every evaluation are the ``erssl`` command on the same part of
CIFAR-10, so that a run takes minutes on a CPU core: a check of the whole way and a trend, not a
published number. With ``--jobs 2`` each seed has a core of its own.
Writes ``benchmarks/results/cifar10_evaluation.json`` and ``cifar10_evaluation.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks._runs import COMMON, RESULTS, link_subset, pretrain, summary
from erssl.files import write_json
from erssl.run.results_figure import plot_results

PRETRAIN = (
    *COMMON,
    "method=mveb",
    "method.target=shared",
    "method.beta=0.03",  # the highest of five at 128 rows and d = 256 (docs/studies.md)
    "batch_size=256",
    "data.pipeline=device",
    "trainer.precision=bf16-mixed",
    "evaluation.every_n_epochs=0",
)
SEEDS = (0, 1)
RARELY = ("trainer.check_val_every_n_epoch=20",)
# lightly's presets have a batch that suits a few thousand images; epochs as the time allows
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "kNN": ("knn", "preset=lightly"),
    "linear, cached features": ("linear", "preset=lightly", "mode=cached", "seeds=3"),
    "linear, random crops": (
        "linear",
        "preset=lightly",
        "mode=augmented",
        "epochs=10",
        "crop_scale=[0.3,1.0]",
    ),
    "semi-supervised, 1 %": (
        "semi",
        "preset=mveb",
        "fraction=0.01",
        "seeds=1",
        *RARELY,
        "crop_scale=[0.3,1.0]",
    ),
    "semi-supervised, 10 %": (
        "semi",
        "preset=mveb",
        "fraction=0.1",
        "seeds=1",
        *RARELY,
        "crop_scale=[0.3,1.0]",
    ),
    "fine-tuning": ("finetune", "preset=lightly", "epochs=10", "crop_scale=[0.3,1.0]"),
}
WITHOUT_WEIGHTS = ("kNN", "linear, cached features")
TRAINED = tuple(f"pretrained, seed {seed}" for seed in SEEDS)
ROWS = (*TRAINED, "untrained", "raw pixels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--train-per-class", type=int, default=1000)
    parser.add_argument("--test-per-class", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time, one thread each")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    report: dict[str, Any] = {
        "command": f"python -m benchmarks.cifar_evaluation <CIFAR-10 images> "
        f"--jobs {arguments.jobs}",
        "setting": f"{arguments.train_per_class} training and {arguments.test_per_class} test "
        "images a class",
        "pretraining": {},
        "rows": {},
    }
    lock = threading.Lock()
    with tempfile.TemporaryDirectory() as folder:
        train, test = (
            link_subset(arguments.images / split, Path(folder, split), count)
            for split, count in (
                ("train", arguments.train_per_class),
                ("test", arguments.test_per_class),
            )
        )
        paths = [f"data.train_dir={train}", f"data.val_dir={test}"]
        begun = Path(folder, "run_0")

        def train_seed(seed: int) -> None:
            overrides = [*PRETRAIN, f"seed={seed}", f"epochs={arguments.epochs}"]
            run_dir = Path(folder, f"run_{seed}")
            pretrain(overrides, paths, run_dir, threads=1)
            with lock:
                report["pretraining"][f"seed {seed}"] = summary(run_dir, overrides)

        def evaluate_row(row: str) -> None:
            subject = {"untrained": f"random:{begun}", "raw pixels": "pixels"}.get(row)
            checkpoint = subject or Path(folder, f"run_{row[-1]}")
            for protocol, (command, *own) in PROTOCOLS.items():
                if row == "raw pixels" and protocol not in WITHOUT_WEIGHTS:
                    continue
                data = [] if row != "raw pixels" else ["data=imagefolder", "data.image_size=32"]
                data += paths if data else []
                place = Path(folder, f"{row} {protocol}".replace(",", "").replace(" %", ""))
                results = evaluate(command, [f"checkpoint={checkpoint}", *own, *data], place)
                with lock:
                    report["rows"][f"{row}, {protocol}"] = {
                        "command": f"erssl {command} checkpoint=<{row}> {' '.join(own)}",
                        "metrics": results["metrics"],
                        "wall_seconds": results["wall_seconds"],
                    }
                    write_json(RESULTS / "cifar10_evaluation.json", report)

        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(train_seed, SEEDS))
            list(pool.map(evaluate_row, ROWS))
    draw(report)
    print(table(report))


def evaluate(command: str, overrides: list[str], run_dir: Path) -> dict[str, Any]:
    """One evaluation in a process of its own, and its ``results.json``."""
    variables = dict(os.environ) | {"ERSSL_HOME": str(run_dir.with_name("home"))}
    variables["OMP_NUM_THREADS"] = "1"
    start = [sys.executable, "-m", "erssl.cli.main", command]
    subprocess.run([*start, *overrides, f"run_dir={run_dir}"], check=True, env=variables)
    results: dict[str, Any] = json.loads((run_dir / "results.json").read_text())
    return results


def table(report: dict[str, Any]) -> str:
    """Markdown table of top-1, a column for each subject."""
    lines = [f"| protocol | {' | '.join(ROWS)} |", "|---|" + "---|" * len(ROWS)]
    for protocol in PROTOCOLS:
        cells = [_cell(report["rows"].get(f"{row}, {protocol}")) for row in ROWS]
        lines.append(f"| {protocol} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(report: dict[str, Any]) -> None:
    """Top-1 of each protocol as bars."""
    entries = [
        {"method": row, "protocol": protocol, "dataset": "CIFAR-10 part", **result["metrics"]}
        for protocol in PROTOCOLS
        for row in ROWS
        if (result := report["rows"].get(f"{row}, {protocol}")) is not None
    ]
    plot_results(entries, RESULTS / "cifar10_evaluation.png")


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return "-"
    metrics = result["metrics"]
    spread = f" ± {100 * metrics['top1_std']:.1f}" if "top1_std" in metrics else ""
    return f"{100 * metrics['top1']:.1f}{spread}"


if __name__ == "__main__":
    main()
