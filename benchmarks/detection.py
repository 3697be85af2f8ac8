"""Does the detection pipeline learn: losses fall, a killed run goes on, eight images are learnt.

    python -m benchmarks.detection <coco_mini> [--backend torchvision|detectron2] [--checkpoint ...]

``<coco_mini>`` is a small data set in COCO's standard layout. Every run is the ``erssl detect``
command in a process of its own, with images and batches that suit two CPU cores: checks of the
pipeline, not numbers to be compared with published ones. Writes
``benchmarks/results/detection_<backend>.json``; runs with their images stay in ``--folder``.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._runs import RESULTS
from erssl.files import write_json
from erssl.run.directory import read_metrics

SMALL = ("batch_size=2", "min_sizes=[96,128]", "max_size=192", "test_size=128", "rois_per_image=16")
FINETUNE = (*SMALL, "iterations=200", "checkpoint_period=50", "learning_rate=0.005")
KILLED = (*SMALL, "iterations=40", "checkpoint_period=5")
OVERFIT = (
    "batch_size=2",
    "min_sizes=[96]",
    "max_size=144",
    "test_size=96",
    "rois_per_image=16",
    "iterations=300",
    "checkpoint_period=100",
    "learning_rate=0.01",
)
IMAGES = 8  # that are learnt by heart
OBJECTS, SIDE = 4, 64  # at most so many in each of them, none smaller than this (pixels)
END = 20  # iterations whose mean loss stands for an end of the curve


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--backend", choices=("torchvision", "detectron2"), default="torchvision")
    parser.add_argument("--checkpoint", default="random:resnet18")
    parser.add_argument("--folder", type=Path, help="an empty folder where runs are kept")
    options = parser.parse_args()
    overrides = (f"checkpoint={options.checkpoint}", f"backend={options.backend}", "seed=0")
    with tempfile.TemporaryDirectory() as folder:
        place = options.folder or Path(folder)
        root = options.data.resolve()
        eight = few_images(root, place / "eight.json")
        results = {
            "finetune": finetune(place / "finetune", (*overrides, *FINETUNE), root),
            "kill_and_resume": kill_and_resume(place, (*overrides, *KILLED), eight),
            "overfit": overfit(place / "overfit", (*overrides, *OVERFIT), eight),
        }
    write_json(RESULTS / f"detection_{options.backend}.json", results)
    print(json.dumps({k: v for k, v in results.items() if k != "finetune"}, indent=2)[:2000])


def finetune(run_dir: Path, overrides: tuple[str, ...], root: Path) -> dict[str, Any]:
    """A few hundred iterations on all of the images."""
    detect((*overrides, f"data_root={root}"), run_dir)
    losses = [loss for _, (loss, _) in sorted(curve(run_dir).items())]
    first, last = statistics.fmean(losses[:END]), statistics.fmean(losses[-END:])
    return {**summary(run_dir, overrides), "first_loss": first, "last_loss": last, "losses": losses}


def kill_and_resume(
    place: Path, overrides: tuple[str, ...], data: tuple[str, ...]
) -> dict[str, Any]:
    """The same run undisturbed and with ``kill -9`` at some moment, side by side."""
    straight, killed = place / "straight", place / "killed"
    detect((*overrides, *data), straight)
    with subprocess.Popen(command((*overrides, *data), killed)) as process:
        while not list(checkpoints(killed)) and process.poll() is None:
            time.sleep(0.1)
        time.sleep(random.Random(0).uniform(0.1, 1.5))
        process.send_signal(signal.SIGKILL)
    detect((*overrides, *data, "resume=true"), killed)
    one, other = curve(straight), curve(killed)
    results = json.loads((killed / "results.json").read_text())
    begin = results["config"]["first_iteration"]
    both = [i for i in sorted(one) if i in other and i >= begin]
    return {
        **summary(killed, overrides),
        "goes_on_at_iteration": begin,
        "iterations_compared": len(both),
        "largest_difference_of_losses": max(abs(one[i][0] - other[i][0]) for i in both),
        "largest_difference_of_rates": max(abs(one[i][1] - other[i][1]) for i in both),
        "metrics_of_the_undisturbed_run": summary(straight, overrides)["metrics"],
    }


def overfit(run_dir: Path, overrides: tuple[str, ...], data: tuple[str, ...]) -> dict[str, Any]:
    """Eight images, trained and evaluated on."""
    detect((*overrides, *data), run_dir)
    return {**summary(run_dir, overrides), "passes": metrics(run_dir)["box_AP50"] > 0.5}


def few_images(root: Path, file: Path) -> tuple[str, ...]:
    """Overrides that name the first images with few, large objects as both splits."""
    content = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    objects: dict[int, list[Any]] = {}
    for annotation in content["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)

    def suits(image: dict[str, Any]) -> bool:
        here = objects.get(image["id"], [])
        large = all(a["area"] > SIDE**2 and not a["iscrowd"] for a in here)
        return 1 <= len(here) <= OBJECTS and large

    content["images"] = [image for image in content["images"] if suits(image)][:IMAGES]
    content["annotations"] = [a for i in content["images"] for a in objects[i["id"]]]
    file.write_text(json.dumps(content))
    return tuple(
        override
        for split in ("train", "val")
        for override in (f"{split}_images={root / 'train2017'}", f"{split}_annotations={file}")
    )


def command(overrides: tuple[str, ...], run_dir: Path) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "erssl.cli.main", "detect", *overrides, f"run_dir={run_dir}"]


def detect(overrides: tuple[str, ...], run_dir: Path) -> None:
    """``erssl detect`` in a process of its own."""
    subprocess.run(command(overrides, run_dir), check=True)


def checkpoints(run_dir: Path) -> list[Path]:
    """What either backend would go on with."""
    return [*run_dir.glob("checkpoints/last.ckpt"), *run_dir.glob("detectron2/last_checkpoint")]


def curve(run_dir: Path) -> dict[int, tuple[float, float]]:
    """Loss and learning rate by iteration."""
    file = run_dir / "detectron2" / "metrics.json"
    if file.is_file():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return {r["iteration"]: (r["total_loss"], r["lr"]) for r in rows if "total_loss" in r}
    curves = read_metrics(run_dir / "metrics.csv")
    rates = dict(curves["lr"])
    return {step: (loss, rates[step]) for step, loss in curves["train_loss"]}


def metrics(run_dir: Path) -> dict[str, float]:
    """What a run came to."""
    results: dict[str, float] = json.loads((run_dir / "results.json").read_text())["metrics"]
    return results


def summary(run_dir: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Results of a run, without what names this machine's folders."""
    results = json.loads((run_dir / "results.json").read_text())
    config = results["config"]
    kept = ("backbone_convolutions", "backbone_norms", "iterations")
    return {
        "command": f"erssl detect {' '.join(overrides)}",
        "metrics": results["metrics"],
        "seed": results["seed"],
        "counts": config["counts"],
        "facts": {key: config[key] for key in kept if key in config},
        "environment": {k: v for k, v in results["environment"].items() if k != "command"},
        "wall_seconds": results["wall_seconds"],
    }


if __name__ == "__main__":
    main()
