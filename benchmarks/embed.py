"""Does ``erssl embed`` cost more than the forward passes and decoding that it cannot do without?

    python -m benchmarks.embed                  200 images
    python -m benchmarks.embed --images 2000    as docs/embed.md has it

Photographs are stood in for by JPEG files of smooth noise (500 x 375 pixels, quality 90), the
backbone is a ResNet-50 of random weights at 224². Three works by turns, in one process
and without loader processes: ``decoding`` reads every file and makes its tensor by erssl's
evaluation transform; ``forward`` passes tensors that are there through the network as it comes, 256
at a time and without gradients; ``embed`` is the whole command, which also checks that every file
can be read, folds batch normalisations, and writes the features. The ratio is embed / (decoding +
forward). Writes ``benchmarks/results/embed.json`` (``_cuda`` of a GPU).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

import erssl
from benchmarks._timing import by_turns, device, result_file
from erssl.data import build_eval_transform, default_options
from erssl.data.images import load_image
from erssl.files import write_json
from erssl.models import build_backbone
from erssl.run.directory import environment

IMAGES, ROUNDS, BATCH, SIZE = 200, 3, 256, (500, 375)
DEVICE = device()


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), options)
    if not options.dry:
        write_json(result_file("embed"), report)
    parts = {name: median(cost["seconds"]) for name, cost in report["costs"].items()}
    shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items())
    print(f"{options.images} images: {shown}; embed / (decoding + forward) = {report['ratio']:.2f}")


@torch.no_grad()
def measure(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Times of the three works, and their ratio, of CPU seconds beside it."""
    files = make_images(folder / "images", options.images)
    data = default_options("imagefolder")
    transform = build_eval_transform(
        data.image_size, data.mean, data.std, data.interpolation, data.crop_pct
    )
    torch.manual_seed(0)
    network = build_backbone("resnet50").eval().to(DEVICE)
    ready = torch.stack([transform(load_image(file)) for file in files])

    def decoding() -> None:
        for file in files:
            transform(load_image(file))

    def forward() -> None:
        parts = [network(part.to(DEVICE)) for part in ready.split(BATCH)]
        torch.cat(parts).cpu()

    def embed() -> None:
        erssl.embed(
            "random:resnet50",
            folder / "images",
            folder / "features",
            overwrite=True,
            quiet=True,
            feature_batch_size=BATCH,
            **{"data.num_workers": 0},
        )

    costs = by_turns({"decoding": decoding, "forward": forward, "embed": embed}, options.n)
    totals = {
        key: median(costs["embed"][key])
        / (median(costs["decoding"][key]) + median(costs["forward"][key]))
        for key in ("seconds", "cpu_seconds")
    }
    command = f"python -m benchmarks.embed --images {options.images} -n {options.n}"
    surroundings = environment(DEVICE)
    return {
        "command": command,
        "setting": {"images": options.images, "jpeg": SIZE, "seed": 0, "device": DEVICE.type},
        "threads": torch.get_num_threads(),
        "rounds": options.n,
        "costs": costs,
        "ratio": totals["seconds"],
        "cpu_ratio": totals["cpu_seconds"],
        "environment": {**surroundings, "command": command},
    }


def make_images(folder: Path, count: int) -> list[Path]:
    """Smooth noise, whose files are of a photograph's size."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    files = []
    for number in range(count):
        coarse = draws.integers(0, 256, (SIZE[1] // 5, SIZE[0] // 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)
        files.append(folder / f"{number:05d}.jpg")
        image.save(files[-1], quality=90)
    return files


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=ROUNDS, help="rounds")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--dry", action="store_true", help="write no results")
    main(parser.parse_args())
