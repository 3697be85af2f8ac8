"""What fits on one GPU: memory and operations of a training step, counted and not measured.

    python -m benchmarks.memory

For each backbone, with MVEB's head (three layers of 2,048) on the meta device, in float32 on images
of 224²: weights, gradients, moments, target network, bytes that autograd keeps an image, and
operations, by :mod:`erssl.models.footprint`; from these the largest batch of two views, and the
time of a step at a rate of operations. No device is asked, and no time is measured. Writes
``benchmarks/results/memory.json`` and the tables of ``docs/memory.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks._pages import write_tables
from benchmarks._runs import RESULTS
from erssl.files import write_json
from erssl.models import BackboneOptions, build_backbone
from erssl.models.footprint import (
    footprint,
    largest_batch,
    step_operations,
    step_seconds,
    training_bytes,
)
from erssl.models.heads import mlp_head
from erssl.run.directory import environment

PAGE = Path(__file__).parents[1] / "docs" / "memory.md"
BACKBONES = {
    "resnet18": (BackboneOptions("resnet18"), "lars"),
    "resnet50": (BackboneOptions("resnet50"), "lars"),
    "resnet101": (BackboneOptions("resnet101"), "lars"),
    "convnext_tiny": (BackboneOptions("convnext_tiny", "timm"), "adamw"),
    "vit_small_patch16_224": (BackboneOptions("vit_small_patch16_224", "timm"), "adamw"),
    "vit_base_patch16_224": (BackboneOptions("vit_base_patch16_224", "timm"), "adamw"),
}
SIZE, HEAD, VIEWS = 224, 2048, 2
CARDS, USABLE = (16, 24, 40, 80), 0.9  # GiB; what the driver, the loss and fragments leave
RATE = 20e12  # operations a second: an eighth of an A100's 156e12 in TF32 (its data sheet)
BATCH, IMAGENET = 256, 1_281_167
COMMAND = "python -m benchmarks.memory"


def main() -> None:
    rows = [measure(name) for name in BACKBONES]
    surroundings = {**environment(torch.device("cpu")), "command": COMMAND}
    setting = {"size": SIZE, "head": HEAD, "views": VIEWS, "usable": USABLE}
    setting |= {"rate": RATE, "batch": BATCH}
    report = {"command": COMMAND, "setting": setting, "rows": rows, "environment": surroundings}
    write_json(RESULTS / "memory.json", report)
    write_tables(PAGE, tables(rows))
    print("\n\n".join(tables(rows).values()))


def measure(name: str) -> dict[str, Any]:
    """Counts of one backbone with its head."""
    options, optimizer = BACKBONES[name]
    with torch.device("meta"):
        backbone: Any = build_backbone(options)
        head = mlp_head(backbone.feature_dim, HEAD, HEAD, num_layers=3)
        network = nn.Sequential(backbone, nn.Flatten(), head).train()
    counted = footprint(network, SIZE)
    fixed = training_bytes(counted, 0, optimizer, ema=True)  # type: ignore[arg-type]
    fits = {
        str(card): largest_batch(counted, USABLE * card * 2**30, VIEWS, optimizer, ema=True)  # type: ignore[arg-type]
        for card in CARDS
    }
    return {
        "backbone": name,
        "optimizer": optimizer,
        **counted._asdict(),
        "fixed": {key: value for key, value in fixed.items() if key != "activations"},
        "flops_an_image": step_operations(counted, VIEWS, ema=True),
        "step_seconds": step_seconds(counted, BATCH, VIEWS, ema=True, rate=RATE),
        "largest_batch": fits,
    }


def tables(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Markdown tables of memory and of operations."""
    cards = " | ".join(f"{card} GiB" for card in CARDS)
    lines = [
        f"| backbone | optimiser | weights, M | state, GiB | an image and view, MiB | {cards} |",
        "|" + "---|" * (5 + len(CARDS)),
    ]
    work = [
        "| backbone | forward, GFLOP a view | a step, GFLOP an image | a step, s | an epoch, h |",
        "|" + "---|" * 5,
    ]
    for row in rows:
        state = sum(row["fixed"].values()) / 2**30
        cells = [f"`{row['backbone']}`", row["optimizer"], f"{row['parameters'] / 1e6:.1f}"]
        cells += [f"{state:.2f}", f"{row['activations'] / 2**20:.0f}"]
        cells += [f"{batch:,}" for batch in row["largest_batch"].values()]
        lines.append(f"| {' | '.join(cells)} |")
        operations = (row["forward_flops"] / 1e9, row["flops_an_image"] / 1e9)
        seconds = row["step_seconds"]
        hours = seconds * IMAGENET / BATCH / 3600
        cells = [f"`{row['backbone']}`", *(f"{number:.1f}" for number in operations)]
        work.append(f"| {' | '.join([*cells, f'{seconds:.2f}', f'{hours:.2f}'])} |")
    return {"memory": "\n".join(lines), "operations": "\n".join(work)}


if __name__ == "__main__":
    main()
