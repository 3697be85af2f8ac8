"""What does each step towards ``experiment=cifar10_cpu`` buy, and what does it reach in an hour?

    python -m benchmarks.cifar_cpu <folder with train/ and test/> [--only <names>] [--seeds 0 1 2]

Runs of ``erssl pretrain experiment=cifar10_cpu`` with overrides. `STEPS` are short, of one thread
each, so that two can run side by side on two cores; `HOUR` are the experiment as it stands, and
other methods with its network, views and time, on all cores; with ``--threads 1`` of one thread
too, for seeds side by side, whose minutes then are not the experiment's.
kNN (k = 200, temperature 0.1) of the last epoch, 10,000 test images. A run that is in the JSON
already is not run again. Writes ``benchmarks/results/cifar_cpu.json`` and prints its table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._runs import RESULTS, pretrain, summary
from erssl.files import write_json

OUT = RESULTS / "cifar_cpu.json"
FOLDERS = {"train": "train", "val": "test"}
EVALUATED_AT_32 = ("data.image_size=32", "data.interpolation=bilinear")  # the experiment: at 48
SHORT = (
    *EVALUATED_AT_32,
    "evaluation.untrained=false",
    "evaluation.every_n_epochs=0",
    "lens.probe_size=0",
)
AT_32 = "data.views.global_image_size=32"  # the experiment's own sizes grow
AT_16 = "data.views.global_image_size=16"
WIDE = "backbone.options={channels:[64,128,256,512],stem_width:16,stem_pool:false}"
LAST = "backbone.options={channels:[32,64,128,512],stem_width:16,stem_pool:false}"
DECAY = "optimizer.weight_decay=1.5e-3"
MUON_512 = ("optimizer=muon", "optimizer.base_lr=0.01", "batch_size=512")
STEPS: dict[str, tuple[str, ...]] = {
    "32 pixels": ("epochs=6", AT_32),
    "24 pixels and four local views of 16": (
        "epochs=4",
        "data.views.global_image_size=24",
        "data.views.n_local_views=4",
        "data.views.local_image_size=16",
    ),
    "16 pixels": ("epochs=10", AT_16),
    "16 pixels, longer": ("epochs=18", AT_16),
    "16 pixels, much longer": ("epochs=60", AT_16),
    "16 pixels, twice the width": ("epochs=9", AT_16, WIDE),
    "16 pixels, longer, twice the width": ("epochs=18", AT_16, WIDE),
    "16 pixels, longer, three times the weight decay": ("epochs=18", AT_16, DECAY),
    "16 pixels, longer, batch 128": ("epochs=18", AT_16, "batch_size=128"),
    "16 pixels, kappa 5": ("epochs=10", AT_16, "method.kappa=5"),
    "6 epochs, SGD": ("epochs=6", AT_16),
    "6 epochs, SGD at a third of the rate": ("epochs=6", AT_16, "optimizer.base_lr=0.04"),
    "6 epochs, SGD at three times the rate": ("epochs=6", AT_16, "optimizer.base_lr=0.36"),
    "6 epochs, AdamW": (
        "epochs=6",
        AT_16,
        "optimizer=adamw",
        "optimizer.base_lr=1e-3",
        "optimizer.warmup_epochs=0",
        "optimizer.weight_decay=0.05",
    ),
    "6 epochs, crops of 0.2 to 1": ("epochs=6", AT_16, "data.views.global_scale=[0.2,1]"),
    "6 epochs, crops of 0.4 to 1": ("epochs=6", AT_16, "data.views.global_scale=[0.4,1]"),
    "6 epochs, 24 pixels": ("epochs=6", "data.views.global_image_size=24"),
    "6 epochs, EntRec": ("epochs=6", AT_16, "method=entrec"),
    "6 epochs, MVEB": ("epochs=6", AT_16, "method=mveb"),
    "6 epochs, DHEL": ("epochs=6", AT_16, "method=dhel"),
    "6 epochs, wider last stage": ("epochs=6", AT_16, LAST),
    "6 epochs, kappa 20": ("epochs=6", AT_16, "method.kappa=20"),
    "6 epochs, three times the weight decay": ("epochs=6", AT_16, DECAY),
    "6 epochs, Muon": ("epochs=6", AT_16, "optimizer=muon"),
    "6 epochs, Muon, batch 512": ("epochs=6", AT_16, *MUON_512),
    "12 epochs, the last 4 at 24 pixels": (
        "epochs=12",
        "data.views.global_image_size=[16,16,24]",
    ),
    "12 epochs, the last 4 at 32 pixels": ("epochs=12",),
}
HOUR: dict[str, tuple[str, ...]] = {
    "cifar10_cpu": (),
    "simclr": ("method=simclr",),
    "byol": (  # whose steps take 1.4 times as long, so that the hour has fewer
        "method=byol",
        "epochs=63",
        "evaluation.every_n_epochs=21",
        "trainer.check_val_every_n_epoch=21",
    ),
    "96 epochs": (*EVALUATED_AT_32, "epochs=96", "evaluation.every_n_epochs=24"),
    "102 epochs": (*EVALUATED_AT_32, "epochs=102", "evaluation.every_n_epochs=34"),
    "78 epochs, Muon, batch 512": (
        *EVALUATED_AT_32,
        *MUON_512,
        "epochs=78",
        "evaluation.every_n_epochs=26",
    ),
}


def main(options: argparse.Namespace) -> None:
    """Run what is missing."""
    paths = [f"data.{split}_dir={options.images / folder}" for split, folder in FOLDERS.items()]
    for name, seed, overrides, threads in asked(options):
        if any((row["name"], row["seed"]) == (name, seed) for row in stored()["rows"]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder, "run")
            pretrain(overrides, paths, run_dir, threads)
            row = row_of(name, run_dir, overrides, threads)
        report = stored()  # anew: others may have run beside this one
        report["rows"].append(row)
        write_json(OUT, report)
    print(table(stored()["rows"]))


def stored() -> dict[str, Any]:
    """What has been run."""
    empty = {"command": "python -m benchmarks.cifar_cpu", "rows": []}
    return json.loads(OUT.read_text()) if OUT.is_file() else empty


def asked(options: argparse.Namespace) -> list[tuple[str, int, list[str], int]]:
    """Name, seed, overrides and threads (0: all cores) of each run."""
    images = ["experiment=cifar10_cpu", "data=imagefolder", "data.verify=false"]
    runs = [
        (name, seed, [*images, *own, *more, f"seed={seed}"], threads)
        for group, more, threads in ((STEPS, SHORT, 1), (HOUR, (), options.threads))
        for name, own in group.items()
        for seed in options.seeds
    ]
    return [run for run in runs if options.only is None or run[0] in options.only]


def row_of(name: str, run_dir: Path, overrides: list[str], threads: int) -> dict[str, Any]:
    """What is kept of a run."""
    run = summary(run_dir, overrides)
    kept = {key: run[key] for key in ("command", "metrics", "wall_seconds", "seed", "environment")}
    knn = run["curves"].get("val_knn_top1", [])
    return {"name": name, "threads": threads or "all", **kept, "knn_by_step": knn}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, in the order of the runs above."""
    names = [*STEPS, *HOUR]
    rows = sorted(rows, key=lambda row: (names.index(row["name"]), row["seed"]))
    lines = ["| run | threads | seed | minutes | kNN | whitened |", "|---" * 6 + "|"]
    lines += [
        f"| {row['name']} | {row['threads']} | {row['seed']} | {row['wall_seconds'] / 60:.1f} "
        f"| {_percent(row, 'knn_top1')} | {_percent(row, 'knn_whitened_top1')} |"
        for row in rows
    ]
    return "\n".join(lines)


def _percent(row: dict[str, Any], metric: str) -> str:
    value = row["metrics"].get(metric)
    return "" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, help="CIFAR-10 as folders of images")
    parser.add_argument("--only", nargs="+", choices=[*STEPS, *HOUR])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=0, help="of the long runs; 0: all cores")
    main(parser.parse_args())
