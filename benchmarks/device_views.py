"""How many views a second does a device make, and what does a training step wait for?

    python -m benchmarks.device_views

On a GPU where there is one. ``views``: images a second whose views are made from images that
the device holds, beside those that lightly's transform makes on one core of the host. Their floor
is the resampling's own traffic and arithmetic: every image read and every view written once, at
the rate of a copy, and multiply-adds of the matrix products, at the rate of a large one. ``steps``:
seconds of a SimCLR step on images of 32 x 32 pixels in files, with each ``data.pipeline`` and
with one batch that is used again and again, by turns. Images are pieces of scikit-learn's sample
photographs. Writes ``benchmarks/results/device_views.json`` (``_cuda`` of a GPU).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from benchmarks._timing import copy_rate, device, product_rate, result_file, synchronize
from erssl.data import SSLDataModule, ViewOptions, build_views, default_options
from erssl.data.views.draws import ViewSpec, read_view, streams
from erssl.data.views.held import views_of_rows
from erssl.files import write_json
from erssl.methods import get_method
from erssl.models import BackboneOptions, build_backbone
from erssl.run.directory import environment

DEVICE = device()
ON_GPU = DEVICE.type == "cuda"
BATCH = 512 if ON_GPU else 128
BACKBONE = (
    BackboneOptions("resnet18", cifar_stem=True)
    if ON_GPU
    else BackboneOptions("resnet10t", "timm", options={"channels": [32, 64, 128, 256]})
)
STEPS, ROUNDS = (10, 3) if ON_GPU else (3, 3)
PIPELINES = ("lightly", "device")
SECONDS = 3.0  # of measuring each rate

CASES: dict[str, dict[str, Any]] = {
    "2 x 32 from 32 x 32": {
        "image": (32, 32),
        "image_size": 32,
        "options": ViewOptions("cifar"),
        "batch": 512,
    },
    "2 x 224 + 6 x 96 from 500 x 375": {
        "image": (375, 500),
        "image_size": 224,
        "options": ViewOptions("dino", n_local_views=6),
        "batch": 128 if ON_GPU else 8,
    },
}


def main() -> None:
    views = [views_row(name, **case) for name, case in CASES.items()]
    report: dict[str, Any] = {
        "command": "python -m benchmarks.device_views",
        "threads": torch.get_num_threads(),
        "views": views,
        "steps": None,  # until they are measured
        "environment": environment(DEVICE),
    }
    report["environment"]["command"] = report["command"]
    write_json(result_file("device_views"), report)
    report["steps"] = step_times()
    write_json(result_file("device_views"), report)


# Views alone ----------------------------------------------------------------------------------


def views_row(
    name: str, image: tuple[int, int], image_size: int, options: ViewOptions, batch: int
) -> dict[str, Any]:
    """Images a second of ours and lightly's, and the floor."""
    transform = build_views(options, image_size, (0.5,) * 3, (0.25,) * 3)
    specs = [read_view(view) for view in transform.transforms]
    pieces = photograph_pieces(*image, 64)
    pixels = torch.from_numpy(np.stack(pieces)).to(DEVICE)
    numbers = torch.arange(batch) % len(pixels)
    rows = torch.stack([numbers, streams(0, 0, torch.arange(batch))], dim=1).to(DEVICE)
    turns = iter(range(2**62))
    images = [Image.fromarray(piece) for piece in pieces]
    row = {
        "views": name,
        "recipe": options.recipe,
        "batch": batch,
        "images_a_second": batch * rate(lambda: views_of_rows(pixels, rows, specs)),
        "lightly_images_a_second": rate(lambda: transform(images[next(turns) % 64])),
        **floor(specs, *image),
    }
    print(row, flush=True)
    return row


def floor(specs: list[ViewSpec], height: int, width: int) -> dict[str, float]:
    """Bytes and multiply-adds of an image, and the seconds that they take here."""
    written = sum(4 * 3 * spec.size**2 for spec in specs)
    multiply_adds = sum(3 * height * spec.size * (width + spec.size) for spec in specs)
    read = 3 * height * width * len(specs)
    bytes_a_second = copy_rate()
    side = 4096 if ON_GPU else 1024
    multiply_adds_a_second = product_rate(side, side, side) / 2
    return {
        "floor_bytes": read + written,
        "floor_multiply_adds": multiply_adds,
        "bytes_a_second": bytes_a_second,
        "multiply_adds_a_second": multiply_adds_a_second,
        "floor_images_a_second": 1
        / max((read + written) / bytes_a_second, multiply_adds / multiply_adds_a_second),
    }


def rate(work: Callable[[], Any]) -> float:
    """How often a second it can be done, after one time that is not counted."""
    work()
    synchronize()
    began, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < SECONDS:
        work()
        done += 1
        if done % 20 == 0 or not ON_GPU:
            synchronize()
    synchronize()
    passed = time.perf_counter() - began
    return done / passed


def photograph_pieces(height: int, width: int, count: int) -> list[Any]:
    """Pieces (height, width, 3) of scikit-learn's photographs, of 427 x 640 pixels."""
    photographs = load_sample_images().images
    places = np.random.default_rng(0).integers(0, (428 - height, 641 - width), (count, 2))
    return [
        np.ascontiguousarray(photographs[i % 2][top : top + height, left : left + width])
        for i, (top, left) in enumerate(places)
    ]


# A training step --------------------------------------------------------------------------------


def step_times() -> dict[str, Any]:
    """Seconds of a step with each pipeline and without loading, by turns."""
    with tempfile.TemporaryDirectory() as folder:
        for i, piece in enumerate(photograph_pieces(32, 32, BATCH * max(STEPS, 8))):
            Image.fromarray(piece).save(f"{folder}/{i:06}.jpg", quality=95)
        modules = {name: module(Path(folder), name) for name in PIPELINES}
        feeds = {name: batches(m) for name, m in modules.items()}
        again = next(feeds["device"])
        feeds["none"] = repeat(again)
        step = training_step()
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in feeds}
        for _ in range(ROUNDS + 1):
            for name, feed in feeds.items():
                times[name].append(timed(step, feed))
    row = {
        "method": "simclr",
        "backbone": BACKBONE.name,
        "batch": BATCH,
        "precision": "bf16-mixed" if ON_GPU else "32",
        "loader_processes": modules["lightly"].options.workers,
    }
    for i, kind in enumerate(("seconds", "cpu_seconds")):  # the second tells less of others' load
        row[kind] = {name: [pair[i] for pair in own[1:]] for name, own in times.items()}
        base = median(row[kind]["none"])
        row[f"ratio_of_{kind}"] = {name: median(own) / base for name, own in row[kind].items()}
    print(row, flush=True)
    return row


def module(folder: Path, pipeline: Any) -> SSLDataModule:
    options = default_options(
        "imagefolder",
        train_dir=str(folder),
        image_size=32,
        views=ViewOptions("cifar"),
        pipeline=pipeline,
    )
    return SSLDataModule(options, BATCH, seed=0)


def batches(module: SSLDataModule) -> Iterator[list[Tensor]]:
    """Views on the device, epoch after epoch."""
    loader = module.train_dataloader()
    for views, targets in chain.from_iterable(repeat(loader)):
        here = [view.to(DEVICE, non_blocking=True) for view in views]
        yield module.on_after_batch_transfer([here, targets])[0]


def training_step() -> Callable[[list[Tensor]], None]:
    """Forward, backward and update of SimCLR."""
    torch.manual_seed(0)
    method = get_method("simclr")(BATCH, 1, backbone=build_backbone(BACKBONE)).to(DEVICE)
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3)

    def step(views: list[Tensor]) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=ON_GPU):
            loss = method.multi_view_step(views).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(
    step: Callable[[list[Tensor]], None], feed: Iterator[list[Tensor]]
) -> tuple[float, float]:
    """Seconds of one of `STEPS` steps, and those of this process's threads."""
    synchronize()
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        step(next(feed))
    synchronize()
    return (time.perf_counter() - began) / STEPS, (time.process_time() - cpu) / STEPS


if __name__ == "__main__":
    main()
