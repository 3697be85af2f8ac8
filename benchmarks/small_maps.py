"""How much sooner does a training pass end where convolutions over a few pixels are products?

    python -m benchmarks.small_maps

Passes forward and backward of backbones as `erssl.models.small_maps` changes them, beside the
same as torch has them, by turns, on all cores and on one. Writes
``benchmarks/results/small_maps.json``; some three minutes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._runs import RESULTS
from benchmarks._timing import by_turns, seconds
from erssl.files import write_json
from erssl.models import BackboneOptions, build_backbone, quicken_small_maps
from erssl.run.directory import environment

HALF_WIDTH = {"channels": [32, 64, 128, 256]}
RESNET10 = BackboneOptions("resnet10t", "timm", options=HALF_WIDTH)  # backbone=resnet10_small
CIFAR = {**HALF_WIDTH, "stem_width": 16, "stem_pool": False}  # of experiment=cifar10_cpu
CASES: dict[str, tuple[BackboneOptions, int, int, torch.dtype]] = {
    "cifar10_cpu, 16 pixels": (
        BackboneOptions("resnet10t", "timm", options=CIFAR), 512, 16, torch.bfloat16
    ),
    "cifar10_cpu, 32 pixels": (
        BackboneOptions("resnet10t", "timm", options=CIFAR), 512, 32, torch.bfloat16
    ),
    "resnet10_small, 32 pixels": (RESNET10, 256, 32, torch.float32),
    "resnet18, 64 pixels": (BackboneOptions("resnet18"), 128, 64, torch.float32),
    "resnet18, 64 pixels, bfloat16": (BackboneOptions("resnet18"), 128, 64, torch.bfloat16),
}  # fmt: skip
ROUNDS = 15
LAST = (512, 256, 1)  # images, channels and side of what the last convolution of 16 pixels meets


def main() -> None:
    """Measure and write."""
    rows = []
    every = torch.get_num_threads()
    for threads in (every, 1):
        torch.set_num_threads(threads)
        for name, (backbone, images, side, dtype) in CASES.items():
            rows.append(
                {"case": name, "threads": threads, **compared(backbone, images, side, dtype)}
            )
            print(rows[-1])
    torch.set_num_threads(every)
    report = {"command": "python -m benchmarks.small_maps", "rows": rows, "last": last_layer()}
    report["environment"] = environment() | {"command": report["command"]}
    print(report["last"])
    write_json(RESULTS / "small_maps.json", report)


def compared(
    backbone: BackboneOptions, images: int, side: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Seconds of a pass of both networks, and their ratio."""
    plain = build_backbone(backbone).train().to(memory_format=torch.channels_last)
    quick = copy.deepcopy(plain)
    quicken_small_maps(quick)
    batch = torch.randn(images, 3, side, side).contiguous(memory_format=torch.channels_last)
    return ratio(
        {"torch": training_pass(plain, batch, dtype), "ours": training_pass(quick, batch, dtype)}
    )


def training_pass(net: nn.Module, batch: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """Forward and backward."""

    def run() -> None:
        net.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            features = net(batch)
        features.float().square().sum().backward()

    return run


def last_layer() -> dict[str, Any]:
    """The last convolution of cifar10_cpu at 16 pixels by itself, in bfloat16."""
    images, channels, side = LAST
    plain = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    plain.to(memory_format=torch.channels_last)
    quick = copy.deepcopy(plain)
    quicken_small_maps(quick)
    batch = torch.randn(images, channels, side, side)
    passes = {"torch": plain, "ours": quick}
    return ratio({k: training_pass(net, batch, torch.bfloat16) for k, net in passes.items()})


def ratio(contenders: dict[str, Callable[[], None]]) -> dict[str, Any]:
    """Medians of both, in milliseconds, and what ours takes of torch's."""
    costs = by_turns(contenders, ROUNDS)
    times = {f"{name}_ms": round(1e3 * seconds(cost), 2) for name, cost in costs.items()}
    return {**times, "ratio": round(times["ours_ms"] / times["torch_ms"], 3)}


if __name__ == "__main__":
    main()
