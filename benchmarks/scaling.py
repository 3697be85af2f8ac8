"""What do the losses send between ranks, and what does the entropy term cost at large batches?

    python -m benchmarks.scaling

``traffic``: every method takes a step of forward and backward on two and four gloo processes, with
torch.distributed's functions counting the bytes that they are handed; a formula must give the same
count. ``shared``: seconds of the processor a rank, and difference from one process, of the score
that ranks share. ``cost``: the share of one of 32 ranks in the entropy term of a view, forward and
backward, in a process of its own on one thread; memory is the growth of its peak resident size.
Writes ``benchmarks/results/scaling.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from benchmarks._runs import RESULTS
from benchmarks._traffic import (
    FORMULAS,
    PAPER,
    at_the_papers_size,
    measured_step,
    small_options,
    step_of,
)
from erssl.entropy import discrete_entropy, entropy_from_score, stein_score
from erssl.entropy.kde import kde_log_density
from erssl.files import write_json
from erssl.loss._score import own_scores
from erssl.methods import get_method
from erssl.run.directory import environment

WORLDS = (2, 4)


def traffic_on_rank(rank: int, world: int, folder: str) -> None:
    start(rank, world, folder)
    rows = []
    for name, formula in FORMULAS.items():
        for views in (2, 4) if get_method(name).info.multi_crop else (2,):
            step = step_of(name, small_options(name), world, 4, views)
            expected = {kind: number for kind, number in formula(step).items() if number}
            measured = dict(measured_step(name, views))
            if expected != measured:
                raise RuntimeError(f"{name}: the formula gives {expected}, counted {measured}")
            rows.append({"method": name, "world": world, "views": views, "bytes": measured})
    finish(rank, folder, rows)


# The shared score -----------------------------------------------------------------------------

SHARED_ROWS, SHARED_DIM = 2048, 512


def embeddings(n: int, dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(n, dim, generator=generator) + 0.1, dim=1)


def shared_on_rank(rank: int, world: int, folder: str) -> None:
    start(rank, world, folder)
    whole = [embeddings(SHARED_ROWS, SHARED_DIM, seed) for seed in (0, 1)]
    own = [z.chunk(world)[rank] for z in whole]
    began = time.process_time()
    scores = own_scores(own, gather_distributed=True)
    seconds = time.process_time() - began
    errors = []
    for z, score in zip(whole, scores, strict=True):
        expected = stein_score(z).chunk(world)[rank]
        errors.append(float((score - expected).norm() / expected.norm()))
    finish(rank, folder, {"world": world, "cpu_seconds": seconds, "relative_error": max(errors)})


# One rank's share -----------------------------------------------------------------------------


def kde_share(n: int, dim: int, world: int) -> None:
    keys = embeddings(n, dim).requires_grad_()
    kde_log_density(keys[: n // world], keys, 10.0, own_offset=0).mean().backward()


def score_share(n: int, dim: int, world: int) -> None:
    columns = slice(0, 2 * dim // world)  # two views: each is solved by half of the ranks
    score = stein_score(embeddings(n, dim), columns=columns)
    own = embeddings(n // world, dim).requires_grad_()
    entropy_from_score(own, score[:1, :1].expand_as(own)).backward()


def discrete_share(n: int, dim: int, world: int) -> None:
    logits = torch.randn(n // world, dim).requires_grad_()
    discrete_entropy((logits / 0.1).softmax(dim=1).mean(dim=0, keepdim=True)).backward()


SHARES: dict[str, Callable[[int, int, int], None]] = {
    "kde": kde_share,
    "score": score_share,
    "discrete": discrete_share,
}
CASES = [("kde", 4096, 128), ("kde", 65536, 128), ("discrete", 4096, 60000)]
CASES += [("discrete", 65536, 60000)]
CASES += [("score", n, 2048) for n in (1024, 2048, 4096, 8192)]


def score_operations(n: int, dim: int, world: int) -> dict[str, float]:
    """Floating-point operations of a rank, in float64, of one view that it factors."""
    return {
        "kernel": 2.0 * n * n * dim,
        "factor": n**3 / 3,
        "solve": 2.0 * n * n * 2 * dim / world,
        "bytes_of_the_kernel": 8.0 * n * n,
    }


def measure(name: str, n: int, dim: int) -> dict[str, Any]:
    """Time and memory of a rank's share in this process."""
    torch.set_num_threads(1)
    SHARES[name](256, dim, PAPER["world"])  # loads LAPACK and its buffers
    before, cpu = peak(), time.process_time()
    SHARES[name](n, dim, PAPER["world"])
    seconds = time.process_time() - cpu
    cost = {"term": name, "n": n, "dim": dim, "cpu_seconds": seconds}
    return {**cost, "peak_mib": (peak() - before) / 2**20}


def in_own_process(name: str, n: int, dim: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scaling", "--case", name, str(n), str(dim)]
    result: dict[str, Any] = json.loads(subprocess.check_output(command, text=True))
    if name == "score":
        result["operations"] = score_operations(n, dim, PAPER["world"])
    print(result, flush=True)
    return result


def peak() -> int:
    """Highest resident size so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# Running --------------------------------------------------------------------------------------


def start(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )


def finish(rank: int, folder: str, result: Any) -> None:
    (Path(folder) / f"{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def on_ranks(world: int, worker: Callable[..., None]) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (world, folder), nprocs=world)
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(world)]


def main() -> None:
    counted = {world: on_ranks(world, traffic_on_rank) for world in WORLDS}
    for ranks in counted.values():
        if any(rank != ranks[0] for rank in ranks):
            raise SystemExit("The ranks were not handed the same number of bytes.")
    report = {
        "command": "python -m benchmarks.scaling",
        "traffic": [row for ranks in counted.values() for row in ranks[0]],
        "traffic_at_the_papers_size": at_the_papers_size(),
        "shared": {
            "rows": SHARED_ROWS,
            "dim": SHARED_DIM,
            "views": 2,
            "ranks": [each for world in (1, *WORLDS) for each in on_ranks(world, shared_on_rank)],
        },
        "cost": [in_own_process(*case) for case in CASES],
        "cost_counted": {"n": 65536, "dim": 2048, **score_operations(65536, 2048, PAPER["world"])},
        "world_of_the_cost": PAPER["world"],
        "environment": environment(),
    }
    report["environment"]["command"] = report["command"]
    write_json(RESULTS / "scaling.json", report)
    print(json.dumps(report["shared"], indent=1))
    for row in report["traffic_at_the_papers_size"]:
        print(f"| {row['method']} | {row['received_by_a_ring'] / 1e6:.2f} MB |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", nargs=3)
    case = parser.parse_args().case
    if case is None:
        main()
    else:
        print(json.dumps(measure(case[0], int(case[1]), int(case[2]))))
