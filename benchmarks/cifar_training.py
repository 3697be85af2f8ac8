"""How long does MVEB on CIFAR-10 take, from images to its kNN accuracy?

    python -m benchmarks.cifar_training <folder with train/ and test/> [--run-dir runs/cifar]

ResNet-18 with CIFAR's stem, batch 512, 200 epochs by ``erssl pretrain``, images and views on the
device that trains, kNN of 50,000 images every tenth epoch and at the end. With a ``--run-dir`` a
run that was stopped goes on; the seconds of all its parts are added. Writes
``benchmarks/results/cifar_training.json`` (``_cuda`` of a GPU): accuracy curve, images a second,
and of a GPU its utilisation, sampled every five seconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from statistics import mean

from benchmarks._runs import pretrain, summary
from benchmarks._timing import device, result_file
from erssl.data import default_options
from erssl.files import write_json

EPOCHS, EVERY = 200, 5.0
ON_GPU = ("trainer.precision=bf16-mixed", "channels_last=true", "trainer.benchmark=true")
PARTS = "seconds_of_parts.json"


def settings(epochs: int) -> list[str]:
    """Overrides of ``erssl pretrain`` beside the folders."""
    cifar = default_options("cifar10", root="none")
    return [
        "method=mveb",
        "data=imagefolder",
        "data.image_size=32",
        "data.views.recipe=cifar",
        "data.verify=false",
        "data.pipeline=device",
        "backbone=resnet18_cifar",
        "optimizer=sgd",
        f"data.mean={list(cifar.mean)}",
        f"data.std={list(cifar.std)}",
        "batch_size=512",
        f"epochs={epochs}",
        "evaluation.every_n_epochs=10",
        "seed=0",
        *(ON_GPU if device().type == "cuda" else ()),
    ]


def main(options: argparse.Namespace) -> None:
    overrides = settings(options.epochs)
    images: Path = options.images
    paths = [f"data.train_dir={images / 'train'}", f"data.val_dir={images / 'test'}"]
    with tempfile.TemporaryDirectory() as folder:
        run_dir = options.run_dir or Path(folder, "run")
        again = ["resume=true"] if (run_dir / "checkpoints").is_dir() else []
        with Utilisation() as utilisation, Clock(run_dir / PARTS) as clock:
            pretrain([*overrides, *again], paths, run_dir)
        report = summary(run_dir, overrides) | {"utilisation": utilisation.samples}
    seconds = sum(clock.parts)
    report["seconds_of_parts"] = clock.parts
    count = sum(1 for _ in (images / "train").glob("*/*"))
    report["images_a_second"] = options.epochs * count / seconds
    report["command"] = "python -m benchmarks.cifar_training"
    write_json(result_file("cifar_training"), report)
    used = f", GPU in use {mean(utilisation.samples):.0f} %" if utilisation.samples else ""
    knn, rate = report["metrics"]["knn_top1"], report["images_a_second"]
    print(f"kNN {knn:.4f} after {seconds:.0f} s, {rate:.0f} images a second{used}")


class Clock:
    """Seconds of every part of a run, kept in its folder even where it is stopped by a signal."""

    def __init__(self, file: Path) -> None:
        """Read the parts before."""
        self.file = file
        self.parts: list[float] = json.loads(file.read_text()) if file.is_file() else []

    def __enter__(self) -> Clock:
        """Begin a part."""
        self.began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.parts.append(time.perf_counter() - self.began)
        if self.file.parent.is_dir():
            write_json(self.file, self.parts)


class Utilisation:
    """Share of the time in which a GPU computes, per cent, as nvidia-smi tells; empty without."""

    def __init__(self) -> None:
        """Nothing is sampled yet."""
        self.samples: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Utilisation:
        """Begin to sample."""
        if shutil.which("nvidia-smi") and device().type == "cuda":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._done.set()

    def _sample(self) -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._done.wait(EVERY):
            answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
            self.samples += [float(line) for line in answer.split()[:1] if line.isdigit()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    main(parser.parse_args())
