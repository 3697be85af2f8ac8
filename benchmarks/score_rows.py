"""What does the score become when only the number of rows changes?

    python -m benchmarks.score_rows

Three questions, of the paper's estimate (euclidean, eta = 0.01), the sphere's with its data-driven
ridge, and that of ``method=mveb_stable``. How large is the tangential score of uniform rows, whose
true score is 0, at N = 128 to 4096, d = 2048? How large is it at the same 32 rows, d = 512, as
other rows join them? And on a batch as in mid-training (cosine of different images 0.09, of the two
views of an image 0.86), how large is the gradient of beta H against that of the alignment, beta =
0.01? Then the cost at N = 4096, d = 2048 of all rows or 128 of them, and of that method, forward
and backward, beside lightly's ``NTXentLoss`` by turns. Writes
``benchmarks/results/score_rows.json``.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from torch import Tensor

from benchmarks._timing import by_turns
from benchmarks.score_error import SETTINGS, tangential
from erssl.entropy import stein_score
from erssl.files import write_json
from erssl.loss import MVEBLoss
from erssl.run.directory import environment

DIM, SIZES = 2048, (128, 512, 2048, 4096)
FIRST, FIRST_DIM, FIRST_SIZES = 32, 512, (32, 128, 512, 1024)
BATCH, ROWS, BETA = 4096, (128, 512, 2048, 4096), 0.01
PEER = "NTXentLoss (lightly)"
BETWEEN, WITHIN = 0.09, 0.86  # cosines of different images, of the views of one


def main(largest: int) -> None:
    report: dict[str, Any] = {
        "uniform": [uniform(n) for n in SIZES if n <= largest],
        "first_rows": [first_rows(n) for n in FIRST_SIZES if n <= largest],
        "gradient": [gradient_ratio(n, min(BATCH, largest)) for n in ROWS if n <= largest],
    }
    report["cost"] = cost(min(BATCH, largest))
    report["environment"] = environment() | {"command": "python -m benchmarks.score_rows"}
    write_json(Path(__file__).parent / "results" / "score_rows.json", report)


def uniform(n: int) -> dict[str, Any]:
    """Root mean square length of the tangential score of uniform rows."""
    z = F.normalize(torch.randn(n, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    sizes = {name: length(stein_score(z, **options), z) for name, options in SETTINGS.items()}
    return _shown({"n": n, "dim": DIM} | sizes)


def first_rows(n: int) -> dict[str, Any]:
    """The same at the first 32 of n uniform rows."""
    rows = torch.randn(max(FIRST_SIZES), FIRST_DIM, generator=torch.Generator().manual_seed(0))
    z = F.normalize(rows[:n], dim=1)
    sizes = {
        name: length(stein_score(z, **options)[:FIRST], z[:FIRST])
        for name, options in SETTINGS.items()
    }
    return _shown({"n": n, "dim": FIRST_DIM, "at_rows": FIRST} | sizes)


def length(score: Tensor, z: Tensor) -> float:
    """Root mean square length of the tangential part."""
    return float(tangential(score, z).square().sum(dim=1).mean().sqrt())


def gradient_ratio(score_rows: int, n: int) -> dict[str, Any]:
    """Length of the gradient of beta H over that of the alignment, at the raw embeddings."""
    views = [z.requires_grad_() for z in mid_training(n)]
    target = [z.detach() for z in views]
    (alignment,) = torch.autograd.grad(MVEBLoss(beta=0.0)(views, target), views[:1])
    ratios: dict[str, Any] = {}
    for name, options in SETTINGS.items():
        loss = MVEBLoss(beta=BETA, score_rows=score_rows, **options)(views, target)
        (both,) = torch.autograd.grad(loss, views[:1])
        ratios[name] = float((both - alignment).norm() / alignment.norm())
    return _shown({"score_rows": score_rows, "n": n, "dim": DIM, "beta": BETA} | ratios)


def mid_training(n: int) -> list[Tensor]:
    """Two views whose rows have a common part, a part of the image and a part of the view."""
    generator = torch.Generator().manual_seed(0)
    common, image, *own = (
        F.normalize(torch.randn(count, DIM, generator=generator), dim=1) for count in (1, n, n, n)
    )
    parts = [BETWEEN**0.5 * common + (WITHIN - BETWEEN) ** 0.5 * image] * 2
    return [part + (1 - WITHIN) ** 0.5 * noise for part, noise in zip(parts, own, strict=True)]


def cost(n: int, rounds: int = 3) -> dict[str, Any]:
    """Seconds and processor seconds of the losses, and their medians against NT-Xent's."""
    z = [torch.randn(n, DIM, requires_grad=True) for _ in range(2)]
    losses: dict[str, torch.nn.Module] = {
        PEER: NTXentLoss(),
        "all rows": MVEBLoss(),
        "128 rows": MVEBLoss(score_rows=128),
        "stable, 512 rows": MVEBLoss(score_rows=512, **SETTINGS["stable"]),
    }

    def step(loss: torch.nn.Module) -> None:
        for leaf in z:
            leaf.grad = None
        loss(*z).backward()

    costs = by_turns({name: partial(step, loss) for name, loss in losses.items()}, rounds)
    answer: dict[str, Any] = {"n": n, "dim": DIM, "threads": torch.get_num_threads()}
    for name, taken in costs.items():
        ratios = {
            f"{kind}_ratio": median(values) / median(costs[PEER][kind])
            for kind, values in taken.items()
        }
        print(name, ratios, flush=True)
        answer[name] = taken | ratios
    return answer


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    print(" | ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    return row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=BATCH)
    main(parser.parse_args().largest)
