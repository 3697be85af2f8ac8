"""Evaluation of a trained network on a few images: which protocol says something, and in bfloat16.

    python -m benchmarks.few_images <folder of cifar10/ and weights/>

EfficientNet-Lite0 (timm's weights and preprocessing) on the first 40 training and 20 test images a
class among the pixel-exact CIFAR-10 tiles: kNN with features computed in float32 and in bfloat16,
and ``erssl linear`` by ``preset=auto``, by lightly's protocol, which auto takes here, and by that
of MVEB, whose batch is larger than the data set. Writes ``benchmarks/results/few_images.json``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import erssl
from benchmarks._runs import RESULTS
from erssl.files import write_json
from erssl.run.directory import environment

CLASSES, TILE, ACROSS = 10, 32, 64
PER_CLASS = {"train": 40, "test": 20}
WEIGHTS, NETWORK = "efficientnet_lite0_timm_names.pth", "tf_efficientnet_lite0"


def cut(source: Path, target: Path) -> None:
    """Write the first tiles of each class as folders of PNG files."""
    labels = np.load(source / "cifar10_exact_labels.npz")
    for split, count in PER_CLASS.items():
        mosaic = Image.open(source / f"cifar10_exact_{split}.png").convert("RGB")
        for label in range(CLASSES):
            folder = target / split / str(label)
            folder.mkdir(parents=True)
            for number in np.flatnonzero(labels[f"{split}_y"] == label)[:count]:
                row, column = divmod(int(number), ACROSS)
                corner = (TILE * column, TILE * row)
                box = (*corner, corner[0] + TILE, corner[1] + TILE)
                mosaic.crop(box).save(folder / f"{number:05d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    report: dict[str, Any] = {"images": PER_CLASS, "network": NETWORK, "top1": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cut(data / "cifar10", folder)
        shared: dict[str, Any] = {
            "arch": NETWORK,
            "data": "imagefolder",
            "data.train_dir": folder / "train",
            "data.val_dir": folder / "test",
            "cache_dir": folder / "cache",
            "quiet": True,
        }

        def top1(command: Any, what: str, **own: Any) -> None:
            place = folder / what.replace(" ", "-")
            result = command(data / "weights" / WEIGHTS, **shared, run_dir=place, **own)
            report["top1"][what] = result.metrics["top1"]
            print(f"{what}: {result.metrics['top1']:.1%}", flush=True)

        top1(erssl.knn, "kNN")
        top1(erssl.knn, "kNN in bf16", features_precision="bf16")
        for preset in ("auto", "lightly", "mveb"):
            top1(erssl.linear, f"linear {preset}", preset=preset, mode="cached")
    write_json(RESULTS / "few_images.json", report | {"environment": environment()})


if __name__ == "__main__":
    main()
