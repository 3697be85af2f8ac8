"""Does linear segmentation tell a trained network from a random one, and what do windows change?

    python -m benchmarks.segment <folder of coco_mini/ and weights/> [--keep FOLDER]

EfficientNet-Lite0 with timm's weights and with random ones: ``erssl segment`` on 110 training and
100 validation images of COCO with all 80 categories, 100 steps of four images of 192 x 192 pixels.
The trained one also with ``inputs=windows``, which keeps the shape of images.
``--keep`` is a folder for the evaluations; those that are finished in it are read, not trained
again. Writes ``benchmarks/results/segment.json``.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import erssl
from benchmarks._runs import RESULTS
from erssl.files import write_json
from erssl.run.directory import environment

WEIGHTS, NETWORK = "efficientnet_lite0_timm_names.pth", "tf_efficientnet_lite0"
SETTING: dict[str, Any] = {
    "masks": "coco",
    "image_size": 192,
    "iterations": 100,
    "batch_size": 4,
    "learning_rate": 0.003,
    "verify": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    kept = tempfile.TemporaryDirectory() if options.keep is None else nullcontext(options.keep)
    trained = {"checkpoint": options.data / "weights" / WEIGHTS, "arch": NETWORK}
    subjects = {
        "trained": trained,
        "trained, windows": trained | {"inputs": "windows"},
        "random": {"checkpoint": f"random:{NETWORK}"},
    }
    metrics = {}
    with kept as folder:
        for name, subject in subjects.items():
            place = Path(folder) / f"seg-{name.replace(', ', '-')}"
            result = erssl.segment(
                data_root=options.data / "coco_mini",
                run_dir=place,
                resume=(place / "config.yaml").is_file(),
                num_workers=0,
                quiet=True,
                **subject,
                **SETTING,
            )
            metrics[name] = dict(result.metrics)
            print(f"{name}: mIoU {result.metrics['miou']:.2%}", flush=True)
    report = {
        "command": "python -m benchmarks.segment",
        "network": NETWORK,
        "setting": SETTING,
        "seed": 0,
        "metrics": metrics,
        "environment": environment() | {"command": "python -m benchmarks.segment"},
    }
    write_json(RESULTS / "segment.json", report)


if __name__ == "__main__":
    main()
