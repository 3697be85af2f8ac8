"""How much memory does a loss need, and can an entropy of many rows be had at all?

    python -m benchmarks.loss_memory

Three questions, each measured in processes of its own, by the growth of the peak of memory once
the inputs exist: the losses at N = 4096, d = 2048; the score estimate beside the same formula with
the N x N x d tensor of kernel gradients, which the published approach of MVEB forms (time too);
the entropy of N = 65,536 rows, whose pairs alone would be 16 GiB, with its value and gradient at
some rows compared with the definition in float64. Writes ``benchmarks/results/loss_memory.json``
(``_cuda`` of a GPU).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks._timing import by_turns, device, in_own_process, peak_growth, result_file, seconds
from benchmarks.losses import DIM, losses
from erssl.entropy import kde_entropy, median_bandwidth, stein_score, vmf_log_normalizer
from erssl.files import write_json
from erssl.run.directory import environment

N, TENSOR_SIZES, ROUNDS = 4096, (512, 1024), 3
MANY, MANY_DIM, KAPPA, CHECKED = 65_536, 128, 10.0, 64
PEER = "NTXentLoss (lightly)"


def main() -> None:
    report: dict[str, Any] = {"command": "python -m benchmarks.loss_memory"}
    report |= {"n": N, "dim": DIM, "threads": torch.get_num_threads()}
    report["losses"] = {name: _measured("loss", name)["bytes"] for name in losses()}
    print(f"N = {N}, d = {DIM}\n| loss | MiB | x NT-Xent |\n" + "|---" * 3 + "|")
    for name, grown in report["losses"].items():
        print(f"| {name} | {grown / 2**20:.0f} | {grown / report['losses'][PEER]:.2f} |")
    report["tensor"] = [against_the_tensor(n) for n in TENSOR_SIZES]
    report["many"] = _measured("many", MANY)
    print("\nentropy of many rows:", report["many"])
    report["environment"] = environment(device()) | {"command": report["command"]}
    write_json(result_file("loss_memory"), report)


def against_the_tensor(n: int) -> dict[str, Any]:
    """Time and memory of the score and of the same formula by a tensor (N, N, d)."""
    z = F.normalize(torch.randn(n, DIM, device=device()), dim=1)
    ours, theirs = stein_score(z), score_by_tensor(z)
    costs = by_turns(
        {"score": lambda: stein_score(z), "tensor": lambda: score_by_tensor(z)}, ROUNDS
    )
    grown = {name: _measured(name, n)["bytes"] for name in costs}
    row = {
        "n": n,
        "dim": DIM,
        "difference": float((ours - theirs).norm() / theirs.norm()),
        "times_faster": seconds(costs["tensor"]) / seconds(costs["score"]),
        "times_less_memory": grown["tensor"] / grown["score"],
        "bytes": grown,
        **{f"{name}_seconds": cost["seconds"] for name, cost in costs.items()},
    }
    print({key: row[key] for key in ("n", "difference", "times_faster", "times_less_memory")})
    return row


def score_by_tensor(z: Tensor) -> Tensor:
    """MVEB's estimate (eta = 0.01) with the gradients of all pairs' kernels in one tensor."""
    delta = (1 - z @ z.T).median().clamp_min(0.1)
    kernel = (z @ z.T / delta).exp()
    gradients = kernel[:, :, None] * (z / delta)[:, None, :]  # (N, N, d)
    inverse = torch.linalg.inv(kernel + 0.01 * torch.eye(len(z), device=z.device))
    return -inverse @ gradients.sum(dim=1)


def many(n: int) -> dict[str, Any]:
    """Entropy and gradient of n rows: memory, time, and the error at some of them."""
    z = F.normalize(torch.randn(n, MANY_DIM, device=device()), dim=1).requires_grad_()
    value = torch.empty(())

    def run() -> None:
        nonlocal value
        value = kde_entropy(z, KAPPA)
        value.backward()

    grown = peak_growth(run)
    z.grad = None
    cost = by_turns({"entropy": run}, 1, warm=False)["entropy"]
    assert z.grad is not None
    return {
        "n": n,
        "dim": MANY_DIM,
        "bytes": grown,
        "seconds": cost["seconds"],
        **_errors(z.detach().double(), value.item(), z.grad.double()),
    }


def _errors(z: Tensor, value: float, gradient: Tensor) -> dict[str, float]:
    """Against the definition in float64, 256 rows of pairs at a time."""
    constant = float(vmf_log_normalizer(z.shape[1], KAPPA)) - math.log(len(z) - 1)
    sums = torch.empty(len(z), dtype=torch.float64, device=z.device)
    for start in range(0, len(z), 256):
        exponents = KAPPA * z[start : start + 256] @ z.T
        exponents.diagonal(start).fill_(-torch.inf)
        sums[start : start + 256] = exponents.logsumexp(dim=1)
    exponents = KAPPA * z[:CHECKED] @ z.T
    exponents.fill_diagonal_(-torch.inf)
    weights = (exponents - sums[:CHECKED, None]).exp() + (exponents - sums).exp()
    expected = -KAPPA * weights @ z / len(z)
    entropy = -(sums.mean() + constant)
    return {
        "entropy": value,
        "entropy_error": abs(value - float(entropy)),
        "gradient_error": float((gradient[:CHECKED] - expected).norm() / expected.norm()),
    }


def _measured(what: str, argument: object) -> dict[str, Any]:
    measured: dict[str, Any] = json.loads(
        in_own_process("benchmarks.loss_memory", "--what", what, "--of", argument)
    )
    return measured


def measure(what: str, argument: str) -> dict[str, Any]:
    """One of the questions, in this process."""
    if what == "many":
        return many(int(argument))
    if what == "loss":
        z = [torch.randn(N, DIM, device=device(), requires_grad=True) for _ in range(2)]
        loss, small = losses()[argument], losses(32)[argument]
        _load(lambda: small(*(torch.randn(64, 32, device=device(), requires_grad=True),) * 2))
        return {"bytes": peak_growth(lambda: loss(*z).backward())}
    rows = F.normalize(torch.randn(int(argument), DIM, device=device()), dim=1)
    score: Callable[[Tensor], Tensor] = {"score": stein_score, "tensor": score_by_tensor}[what]
    _load(lambda: score(rows[:64, :32].contiguous()).requires_grad_().sum())
    return {"bytes": peak_growth(lambda: score(rows))}


def _load(run: Callable[[], Tensor]) -> None:
    """Let libraries take the memory that they take once."""
    run().backward()
    median_bandwidth(torch.eye(2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=("loss", "score", "tensor", "many"))
    parser.add_argument("--of")
    options = parser.parse_args()
    if options.what is None:
        main()
    else:
        print(json.dumps(measure(options.what, options.of)))
