"""How long do frozen features take on this machine, beside the backbone as it comes?

    python -m benchmarks.features

Images of noise of 224² pixels, passed through a ResNet-18, a ResNet-50, ConvNeXt-atto and ViT-S/16
of random weights, whose batch normalisations have statistics as of a training: as the backbone
comes, as :func:`erssl.evaluation.frozen.freeze` makes it (batch normalisation folded into the
convolutions, channels-last, few images at a time on a CPU), and the same in bfloat16. All by turns
in one process, medians, CPU seconds beside wall seconds, since others may use the cores. Beside the
ratios: the largest difference of a feature relative to the largest feature, the smallest cosine,
and how many predictions of kNN (k = 20 among the other images, random classes) are the same.
Writes ``benchmarks/results/features.json`` (``_cuda`` of a GPU).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._timing import by_turns, device, result_file
from erssl.evaluation import Features, knn_scores
from erssl.evaluation.frozen import freeze
from erssl.files import write_json
from erssl.models import BackboneOptions, build_backbone
from erssl.run.directory import environment

BACKBONES = {
    "resnet18": BackboneOptions("resnet18"),
    "resnet50": BackboneOptions("resnet50"),
    "convnext_atto": BackboneOptions("convnext_atto", "timm"),
    "vit_small_patch16_224": BackboneOptions("vit_small_patch16_224", "timm"),
}
IMAGES, SIZE, ROUNDS = 64, 224, 5
DEVICE = device()


@torch.no_grad()
def main(options: argparse.Namespace) -> None:
    rows = [measure(name, options) for name in options.backbones]
    report = {
        "command": "python -m benchmarks.features",
        "setting": {"images": options.images, "size": SIZE, "seed": 0, "device": DEVICE.type},
        "threads": torch.get_num_threads(),
        "rounds": options.n,
        "rows": rows,
        "environment": environment(DEVICE),
    }
    report["environment"]["command"] = report["command"]
    if not options.dry:
        write_json(result_file("features"), report)
    print(table(rows))


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Times and agreement of one backbone."""
    torch.manual_seed(0)
    net = trained_statistics(build_backbone(BACKBONES[name])).eval().to(DEVICE)
    images = torch.randn(options.images, 3, SIZE, SIZE, device=DEVICE)
    single, half = freeze(net), freeze(net, "bf16")
    contenders: dict[str, Callable[[], Tensor]] = {
        "as it comes": lambda: net(images).flatten(1),
        "float32": lambda: single.forward(images),
        "bf16": lambda: half.forward(images),
    }
    costs = by_turns(contenders, options.n)
    reference = contenders["as it comes"]().float().cpu()
    row: dict[str, Any] = {"backbone": name, "folded": single.folded, "kept": single.kept}
    for label, work in contenders.items():
        row[label] = {**costs[label], **agreement(reference, work().float().cpu())}
    return row


def trained_statistics(net: nn.Module) -> nn.Module:
    """Give batch normalisations statistics and weights that folding has to carry over."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            part.running_mean.normal_(0, 0.1)
            assert part.running_var is not None
            part.running_var.uniform_(0.5, 1.5)
    return net


def agreement(reference: Tensor, measured: Tensor) -> dict[str, float]:
    """How near features are to those of the backbone as it comes."""
    half = len(reference) // 2
    labels = torch.arange(len(reference)) % 10
    predicted = [
        knn_scores(Features(f[:half], labels[:half]), Features(f[half:], labels[half:]), 10, 20)
        for f in (reference, measured)
    ]
    same = predicted[0].argmax(dim=1) == predicted[1].argmax(dim=1)
    return {
        "largest_difference": float((measured - reference).abs().max() / reference.abs().max()),
        "smallest_cosine": float(nn.functional.cosine_similarity(reference, measured).min()),
        "same_knn_predictions": float(same.double().mean()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of ratios to the backbone as it comes."""
    lines = [
        "| backbone | folded | as it comes, s | float32 | its CPU | difference | bf16 | its CPU |",
        "|" + "---|" * 8,
    ]
    for row in rows:
        base, single, half = (row[name] for name in ("as it comes", "float32", "bf16"))
        cells = [row["backbone"], f"{row['folded']}", f"{median(base['seconds']):.2f}"]
        for cost in (single, half):
            cells += [f"{ratio(cost, base, key):.2f} ×" for key in ("seconds", "cpu_seconds")]
        cells.insert(5, f"{single['largest_difference']:.0e}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio(cost: dict[str, Any], base: dict[str, Any], key: str) -> float:
    """Median of the rounds' ratios, each of two runs that were next to each other."""
    return median(own / other for own, other in zip(cost[key], base[key], strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=ROUNDS, help="rounds")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    parser.add_argument("--dry", action="store_true", help="write no results")
    main(parser.parse_args())
