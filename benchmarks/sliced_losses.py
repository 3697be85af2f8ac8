"""How do the losses of slices compare with lightly's at N = d = 1024: time, memory, digits?

    python -m benchmarks.sliced_losses [--rounds 7]

LeJEPA's (1,024 slices) and VISReg's (4,096) of two views, forward and backward, by turns with
lightly's of the same tensors; the growth of the peak of memory, each in a process of its own; and
how far value and gradient of either statistic in float32 are from ours in float64, by the same
slices. The floor is that of the products with the slices, which both pay: forward and backward at
the rate of such a product. One thread. Writes ``benchmarks/results/sliced_losses.json`` (``_cuda``
of a GPU).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks._timing import (
    by_turns,
    device,
    in_own_process,
    peak_growth,
    product_rate,
    result_file,
    seconds,
)
from benchmarks.losses import LEJEPA_SLICES, VISREG_SLICES, losses
from erssl.entropy import random_directions, sliced_epps_pulley, sliced_wasserstein
from erssl.files import write_json
from erssl.run.directory import environment

N = DIM = 1024
PAIRS = {"LeJEPALoss": LEJEPA_SLICES, "VISRegLoss": VISREG_SLICES}
STATISTICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "LeJEPALoss": sliced_epps_pulley,
    "VISRegLoss": sliced_wasserstein,
}


def main(rounds: int) -> None:
    report: dict[str, Any] = {"command": "python -m benchmarks.sliced_losses", "n": N, "dim": DIM}
    report |= {"threads": torch.get_num_threads(), "rows": []}
    for name, slices in PAIRS.items():
        row = compared(name, slices, rounds)
        report["rows"].append(row)
        print({key: value for key, value in row.items() if key != "costs"}, flush=True)
    report["environment"] = environment(device()) | {"command": report["command"]}
    write_json(result_file("sliced_losses"), report)


def compared(name: str, slices: int, rounds: int) -> dict[str, Any]:
    """Time, memory and error of one loss, and time and memory of lightly's."""
    z = [torch.randn(N, DIM, device=device(), requires_grad=True) for _ in range(2)]
    peer = f"{name} (lightly)"
    contenders = {key: step(losses()[key], z) for key in (name, peer)}
    costs = by_turns(contenders, rounds)
    grown = {
        key: json.loads(in_own_process("benchmarks.sliced_losses", "--memory-of", key))
        for key in contenders
    }
    # two views, projections and the gradient of each
    floor = 2 * 2 * 2 * N * DIM * slices / product_rate(slices, N, DIM)
    return {
        "loss": name,
        "slices": slices,
        "milliseconds": 1e3 * seconds(costs[name]),
        "floor_milliseconds": 1e3 * floor,
        "times_faster": seconds(costs[peer]) / seconds(costs[name]),
        "times_faster_at_the_floor": seconds(costs[peer]) / floor,
        "share_of_the_memory": grown[name] / grown[peer],
        **errors(STATISTICS[name], slices),
        "costs": costs,
        "bytes": grown,
    }


def step(loss: Callable[[Tensor, Tensor], Tensor], z: list[Tensor]) -> Callable[[], None]:
    """Forward and backward of one pair of views."""

    def run() -> None:
        for view in z:
            view.grad = None
        loss(*z).backward()

    return run


def errors(statistic: Callable[[Tensor, Tensor], Tensor], slices: int) -> dict[str, float]:
    """Relative errors of a statistic in float32, against the same in float64."""
    directions = random_directions(DIM, slices, like=torch.empty((), device=device()))
    x = torch.randn(N, DIM, device=device(), requires_grad=True)
    exact = x.detach().double().requires_grad_()
    value, reference = statistic(x, directions), statistic(exact, directions.double())
    (gradient,) = torch.autograd.grad(value, x)
    (expected,) = torch.autograd.grad(reference, exact)
    return {
        "value_error": abs(value.item() / reference.item() - 1),
        "gradient_error": float((gradient - expected).norm() / expected.norm()),
    }


def memory_of(name: str) -> int:
    """Growth of the peak of memory of one step, in this process."""
    loss = losses()[name]
    z = [torch.randn(N, DIM, device=device(), requires_grad=True) for _ in range(2)]
    small = [torch.randn(8, 8, device=device(), requires_grad=True) for _ in range(2)]
    step(loss, small)()  # libraries are loaded
    return peak_growth(step(loss, z))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-of", choices=[*PAIRS, *(f"{key} (lightly)" for key in PAIRS)])
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory_of is None:
        main(given.rounds)
    else:
        print(json.dumps(memory_of(given.memory_of)))
