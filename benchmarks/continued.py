"""Is a run that starts from weights ahead of one from scratch, on images that both see first?

    python -m benchmarks.continued <folder with train/ and test/ of CIFAR-10 as images>

For each of two seeds: SimCLR on one half of the images; then, with the same steps on the other
half, once from those weights (``checkpoint=``) and once from scratch. kNN after every epoch. The
network is small, so that a run takes a quarter to half an hour on a CPU core: a trend, not a
published number. Writes ``benchmarks/results/continued.json``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks._runs import COMMON, RESULTS, link_subset, pretrain, summary
from erssl.files import write_json

FILE = RESULTS / "continued.json"
# the backbone of the continued run is that of its weights
NETWORK = tuple(override for override in COMMON if not override.startswith("backbone"))
BACKBONE = (
    *(override for override in COMMON if override.startswith("backbone")),
    "backbone.options.channels=[16,32,64,128]",  # a quarter of the width
    "backbone.options.stem_width=16",
)
RUN = (
    "method=simclr",
    "batch_size=256",
    "data.pipeline=device",
    "trainer.precision=bf16-mixed",
    "evaluation.every_n_epochs=1",
    "lens.probe_size=0",
)
SEEDS = (0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--train-per-class", type=int, default=2500, help="of each half")
    parser.add_argument("--test-per-class", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=8, help="on the first half")
    parser.add_argument("--continued-epochs", type=int, default=4, help="on the second half")
    arguments = parser.parse_args()
    n = arguments.train_per_class
    report = {
        "command": "python -m benchmarks.continued <images>",
        "setting": f"{n} training images a class in each half, {arguments.test_per_class} test "
        f"images a class; {arguments.epochs} epochs on the first half, "
        f"{arguments.continued_epochs} on the second; {' '.join((*NETWORK, *BACKBONE, *RUN))}",
        "runs": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        first, second = halves(arguments.images / "train", Path(folder), n)
        test = link_subset(
            arguments.images / "test", Path(folder, "test"), arguments.test_per_class
        )
        for seed in SEEDS:
            began = Path(folder, f"first_{seed}")
            short = f"epochs={arguments.continued_epochs}"
            runs = {
                "first half": (began, first, (*BACKBONE, f"epochs={arguments.epochs}")),
                "continued": (Path(folder, f"on_{seed}"), second, (f"checkpoint={began}", short)),
                "from scratch": (Path(folder, f"new_{seed}"), second, (*BACKBONE, short)),
            }
            for name, (run_dir, train, more) in runs.items():
                overrides = [*NETWORK, *RUN, *more, f"seed={seed}"]
                paths = [f"data.train_dir={train}", f"data.val_dir={test}"]
                pretrain(overrides, paths, run_dir)
                shown = [override.replace(str(began), "<first half>") for override in overrides]
                report["runs"][f"{name}, seed {seed}"] = summary(run_dir, shown)
                write_json(FILE, report)
    print(table(report["runs"]))


def halves(source: Path, folder: Path, per_class: int) -> tuple[Path, Path]:
    """The first images of each class, and the next ones, as links."""
    both = link_subset(source, folder / "both", 2 * per_class)
    for place in sorted(both.iterdir()):
        (folder / "second" / place.name).mkdir(parents=True)
        for image in sorted(place.iterdir())[per_class:]:
            os.replace(image, folder / "second" / place.name / image.name)
    return both, folder / "second"


def table(runs: dict[str, dict[str, object]]) -> str:
    lines = ["| run | kNN before | kNN after each epoch |", "|---|---|---|"]
    for name, run in runs.items():
        curve: list[list[float]] = run["curves"]["val_knn_top1"]  # type: ignore[index]
        before, *after = [f"{value:.3f}" for _, value in curve]
        lines.append(f"| {name} | {before} | {', '.join(after)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
