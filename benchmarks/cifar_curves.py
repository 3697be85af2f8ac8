"""Does pretraining raise kNN accuracy on real images, and does MVEB collapse at β = 0.001?

    python -m benchmarks.cifar_curves <folder with train/ and test/ of CIFAR-10 as images>

Every run is ``erssl pretrain`` with one backbone, view recipe, schedule and seed; only the method
differs. A subset is taken so that a run takes minutes on two CPU cores: a trend, not a published
number. Writes ``benchmarks/results/cifar10_subset.json`` and ``cifar10_subset.png``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._runs import COMMON as CIFAR
from benchmarks._runs import (
    RESULTS,
    SMOOTHED,
    as_before,
    drawn,
    link_subset,
    plot_curves,
    pretrain,
    summary,
)
from erssl.files import write_json

COMMON = (*CIFAR, "batch_size=256", "seed=0", "evaluation.every_n_epochs=2")
SPHERE_AUTO = ("method.geometry=sphere", "method.eta=auto")
RUNS: dict[str, tuple[str, ...]] = {
    "mveb": (*as_before("mveb"), "method.target=shared"),
    "entrec": as_before("entrec"),
    "simclr": (*as_before("simclr"), "method.temperature=0.2"),
    "mveb beta 0.001": (*as_before("mveb"), "method.target=shared", "method.beta=0.001"),
    "mveb beta 0.03": (*as_before("mveb"), "method.target=shared", "method.beta=0.03"),
    "mveb sphere auto": (*as_before("mveb"), "method.target=shared", *SPHERE_AUTO),
    "mveb sphere auto beta 0.03": (
        *as_before("mveb"),
        "method.target=shared",
        *SPHERE_AUTO,
        "method.beta=0.03",
    ),
    "mveb seed 1": (*as_before("mveb"), "method.target=shared", "seed=1"),
    "mveb sphere auto beta 0.03 seed 1": (
        *as_before("mveb"),
        "method.target=shared",
        *SPHERE_AUTO,
        "method.beta=0.03",
        "seed=1",
    ),
    "mveb momentum target": (*as_before("mveb"), "method.target=momentum"),
}


PANELS = {
    "val_knn_top1": "kNN top-1",
    "train_alignment": "alignment (mean cosine)",
    "train_entropy": SMOOTHED,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--train-per-class", type=int, default=600)
    parser.add_argument("--test-per-class", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=list(RUNS))
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "cifar10_subset.json"
    report = json.loads(file.read_text()) if file.exists() else {"runs": {}}
    report["setting"] = (
        f"{arguments.train_per_class} training and {arguments.test_per_class} test images a "
        f"class, {arguments.epochs} epochs; common settings: {' '.join(COMMON)}"
    )
    with tempfile.TemporaryDirectory() as folder:
        train = link_subset(
            arguments.images / "train", Path(folder, "train"), arguments.train_per_class
        )
        test = link_subset(
            arguments.images / "test", Path(folder, "test"), arguments.test_per_class
        )
        for name in arguments.only:
            run_dir = Path(folder, name.replace(" ", "_"))
            overrides = [*COMMON, *RUNS[name], f"epochs={arguments.epochs}"]
            paths = [f"data.train_dir={train}", f"data.val_dir={test}"]
            pretrain(overrides, paths, run_dir)
            report["runs"][name] = summary(run_dir, overrides)
            write_json(file, report)
            plot_curves(report["runs"], PANELS, RESULTS / "cifar10_subset.png")
    print(table(report))


def table(report: dict[str, Any]) -> str:
    """Markdown table of what each run ended with."""
    lines = [
        "| run | kNN | linear | smoothed entropy | alignment | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in report["runs"].items():
        m = run["metrics"]
        if len(lines) == 2:
            knn, linear = m["untrained_knn_top1"], m["untrained_linear_top1"]
            lines.append(f"| untrained | {knn:.3f} | {linear:.3f} | | | |")
        lines.append(
            f"| {name} | {m['knn_top1']:.3f} | {m['linear_top1']:.3f} | "
            f"{drawn(run, 'train_entropy')[1][-1]:.2f} | {m['train_alignment']:.3f} | "
            f"{run['wall_seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
