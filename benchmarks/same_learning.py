"""Does what was made faster still learn the same?

    python -m benchmarks.same_learning <folder with train/ and test/ of CIFAR-10 as images>

MVEB on a part of CIFAR-10 by ``erssl pretrain``, from two seeds with each way of making views, and
once more with every score solved in float64. That one and the run of its seed differ by rounding
alone at first, and then as two runs do whose weights differ a little. Two runs at a time, each on
one thread. Writes ``benchmarks/results/same_learning.json`` and ``same_learning.png``.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks._runs import (
    COMMON,
    RESULTS,
    SMOOTHED,
    as_before,
    link_subset,
    plot_curves,
    pretrain,
    summary,
)
from erssl.data.options import PIPELINES
from erssl.files import write_json
from erssl.run.directory import environment

SETTING = (*COMMON, *as_before("mveb"), "method.target=shared", "batch_size=256", "epochs=10")
DOUBLE = "float64 score"
ALL_IN_FLOAT64 = "from erssl.entropy import score; score._TOLERANCE = 0.0"
TRAIN_PER_CLASS, TEST_PER_CLASS, SEEDS = 600, 100, (0, 1)


PANELS = {
    "train_loss": "loss",
    "train_alignment": "alignment (mean cosine)",
    "train_entropy": SMOOTHED,
}


def main(images: Path) -> None:
    runs = {f"{name} seed {seed}": (name, seed) for name in PIPELINES for seed in SEEDS}
    runs[DOUBLE] = ("lightly", 0)
    with tempfile.TemporaryDirectory() as folder:
        train = link_subset(images / "train", Path(folder, "train"), TRAIN_PER_CLASS)
        test = link_subset(images / "test", Path(folder, "test"), TEST_PER_CLASS)

        def run(name: str) -> dict[str, Any]:
            pipeline, seed = runs[name]
            overrides = [
                *SETTING,
                f"data.pipeline={pipeline}",
                f"seed={seed}",
                "data.num_workers=1",
            ]
            paths = [f"data.train_dir={train}", f"data.val_dir={test}"]
            own = Path(folder, name.replace(" ", "_"))
            pretrain(overrides, paths, own, 1, before=ALL_IN_FLOAT64 if name == DOUBLE else "")
            return summary(own, overrides)

        with ThreadPoolExecutor(2) as pool:
            done = dict(zip(runs, pool.map(run, runs), strict=True))
    report: dict[str, Any] = {"command": "python -m benchmarks.same_learning", "runs": done}
    report["float64_score"] = difference(done["lightly seed 0"], done[DOUBLE])
    report["environment"] = environment() | {"command": report["command"]}
    write_json(RESULTS / "same_learning.json", report)
    plot_curves(done, PANELS, RESULTS / "same_learning.png", (DOUBLE,))
    print(table(done))
    print(report["float64_score"])


def difference(run: dict[str, Any], exact: dict[str, Any]) -> dict[str, float]:
    """Largest distance of the two losses over training, and of the final accuracies."""
    pairs = zip(run["curves"]["train_loss"], exact["curves"]["train_loss"], strict=True)
    return {
        "largest_loss_difference": max(abs(a - b) for (_, a), (_, b) in pairs),
        "knn_difference": run["metrics"]["knn_top1"] - exact["metrics"]["knn_top1"],
    }


def table(runs: dict[str, Any]) -> str:
    """Markdown table of what each run ended with."""
    lines = ["| run | kNN | linear | loss | seconds |", "|---|---|---|---|---|"]
    for name, run in runs.items():
        m = run["metrics"]
        lines.append(
            f"| {name} | {m['knn_top1']:.3f} | {m['linear_top1']:.3f} | {m['train_loss']:.4f} | "
            f"{run['wall_seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    main(parser.parse_args().images)
