"""Does ``trainer.precision=auto`` learn the same, and how much sooner?

    python -m benchmarks.precision <folder with train/ and test/ of CIFAR-10 as images>

MVEB on a part of CIFAR-10 by ``erssl pretrain``, from two seeds in float32, channels-last, and with
``trainer.precision=auto``, which on a processor with AVX512-BF16 or AMX comes to bf16-mixed and
channels-last. One run after the other on one thread. Writes ``benchmarks/results/precision.json``
and ``precision.png``; about eleven minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks._runs import COMMON, RESULTS, SMOOTHED, link_subset, plot_curves, pretrain, summary
from benchmarks.same_learning import table
from erssl.files import write_json
from erssl.run.directory import HEADER, environment

SETTING = (*COMMON, "method=mveb", "method.target=shared", "batch_size=256", "epochs=10")
SETTING += ("data.pipeline=device", "data.num_workers=0", "evaluation.every_n_epochs=2")
PRECISIONS, SEEDS = ("32-true", "auto"), (0, 1)
TRAIN_PER_CLASS, TEST_PER_CLASS = 410, 100


PANELS = {
    "train_loss": "loss",
    "train_alignment": "alignment (mean cosine)",
    "train_entropy": SMOOTHED,
    "val_knn_top1": "kNN accuracy",
}


def main(images: Path) -> None:
    done: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        train = link_subset(images / "train", Path(folder, "train"), TRAIN_PER_CLASS)
        test = link_subset(images / "test", Path(folder, "test"), TEST_PER_CLASS)
        for seed in SEEDS:
            for precision in PRECISIONS:
                overrides = [*SETTING, f"trainer.precision={precision}", f"seed={seed}"]
                own = Path(folder, f"{precision}-{seed}")
                pretrain(overrides, [f"data.train_dir={train}", f"data.val_dir={test}"], own, 1)
                done[f"{precision} seed {seed}"] = {**summary(own, overrides), "said": said(own)}
    report = {"command": "python -m benchmarks.precision", "runs": done}
    report["differences"] = differences(done)
    report["environment"] = environment() | {"command": report["command"]}
    write_json(RESULTS / "precision.json", report)
    plot_curves(done, PANELS, RESULTS / "precision.png")
    print(table(done))
    print(report["differences"])


def said(run_dir: Path) -> str:
    """What the header says of the precision."""
    lines = (run_dir / HEADER).read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("Precision: "))


def differences(runs: dict[str, Any]) -> dict[str, float]:
    """Mean distance of two curves of the loss: of one seed in both precisions, and of two seeds."""
    first, second = (f" seed {seed}" for seed in SEEDS)
    plain, chosen = PRECISIONS
    return {
        "of_precisions": _distance(runs[plain + first], runs[chosen + first]),
        "of_precisions_second_seed": _distance(runs[plain + second], runs[chosen + second]),
        "of_seeds_in_float32": _distance(runs[plain + first], runs[plain + second]),
    }


def _distance(run: dict[str, Any], other: dict[str, Any]) -> float:
    pairs = zip(run["curves"]["train_loss"], other["curves"]["train_loss"], strict=True)
    return mean(abs(a - b) for (_, a), (_, b) in pairs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    main(parser.parse_args().images)
