"""What four protocols say of a backbone pretrained here, of the untrained one, and of raw pixels.

    python -m benchmarks.cifar_evaluation <folder with train/ and test/ of CIFAR-10 as images>

Pretraining and every evaluation are the ``erssl`` command on the same part of CIFAR-10, so that a
run takes minutes on two CPU cores: a check of the whole way and a trend, not a published number.
Writes ``benchmarks/results/cifar10_evaluation.json`` and ``cifar10_evaluation.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._runs import COMMON, RESULTS, as_before, link_subset, pretrain, summary
from erssl.files import write_json
from erssl.run.results_figure import plot_results

PRETRAIN = (
    *COMMON,
    *as_before("mveb"),
    "method.target=shared",
    "method.geometry=sphere",
    "method.eta=auto",
    "method.beta=0.03",
    "batch_size=256",
    "seed=0",
    "evaluation.every_n_epochs=0",
)
RARELY = ("trainer.check_val_every_n_epoch=20",)
# lightly's presets have a batch that suits a few thousand images; epochs as the time allows
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "kNN": ("knn", "preset=lightly"),
    "linear, cached features": ("linear", "preset=lightly", "mode=cached", "seeds=3"),
    "linear, random crops": (
        "linear",
        "preset=lightly",
        "mode=augmented",
        "epochs=20",
        "crop_scale=[0.3,1.0]",
    ),
    "semi-supervised, 1 %": (
        "semi",
        "preset=mveb",
        "fraction=0.01",
        "seeds=3",
        *RARELY,
        "crop_scale=[0.3,1.0]",
    ),
    "semi-supervised, 10 %": (
        "semi",
        "preset=mveb",
        "fraction=0.1",
        "seeds=3",
        *RARELY,
        "crop_scale=[0.3,1.0]",
    ),
    "fine-tuning": ("finetune", "preset=lightly", "epochs=10", "crop_scale=[0.3,1.0]"),
}
WITHOUT_WEIGHTS = ("kNN", "linear, cached features")
ROWS = ("pretrained", "untrained", "raw pixels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--train-per-class", type=int, default=1000)
    parser.add_argument("--test-per-class", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        train = link_subset(
            arguments.images / "train", Path(folder, "train"), arguments.train_per_class
        )
        test = link_subset(
            arguments.images / "test", Path(folder, "test"), arguments.test_per_class
        )
        overrides = [*PRETRAIN, f"epochs={arguments.epochs}"]
        paths = [f"data.train_dir={train}", f"data.val_dir={test}"]
        run_dir = Path(folder, "run")
        pretrain(overrides, paths, run_dir)
        report: dict[str, Any] = {
            "command": "python -m benchmarks.cifar_evaluation <CIFAR-10 images>",
            "setting": f"{arguments.train_per_class} training and {arguments.test_per_class} test "
            "images a class",
            "pretraining": summary(run_dir, overrides),
            "rows": {},
        }
        subjects = dict(zip(ROWS, (run_dir, f"random:{run_dir}", "pixels"), strict=True))
        for row, checkpoint in subjects.items():
            for protocol, (command, *own) in PROTOCOLS.items():
                if row == "raw pixels" and protocol not in WITHOUT_WEIGHTS:
                    continue
                data = [] if row != "raw pixels" else ["data=imagefolder", "data.image_size=32"]
                data += paths if data else []
                key = f"{row}, {protocol}"
                results = evaluate(command, [f"checkpoint={checkpoint}", *own, *data], folder)
                report["rows"][key] = {
                    "command": f"erssl {command} checkpoint=<{row}> {' '.join(own)}",
                    "metrics": results["metrics"],
                    "wall_seconds": results["wall_seconds"],
                }
                write_json(RESULTS / "cifar10_evaluation.json", report)
    draw(report)
    print(table(report))


def evaluate(command: str, overrides: list[str], folder: str) -> dict[str, Any]:
    """One evaluation in a process of its own, and its ``results.json``."""
    run_dir = Path(folder, "evaluation")
    variables = dict(os.environ) | {"ERSSL_HOME": str(Path(folder, "home"))}
    start = [sys.executable, "-m", "erssl.cli.main", command]
    own = [f"run_dir={run_dir}", "overwrite=true"]
    subprocess.run([*start, *overrides, *own], check=True, env=variables)
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
