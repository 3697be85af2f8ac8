"""What the speed benchmarks share: contenders by turns, the machine's own rates, peak memory."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

Costs = dict[str, list[float]]


def by_turns(
    contenders: Mapping[str, Callable[[], Any]], rounds: int, warm: bool = True
) -> dict[str, Costs]:
    """Time contenders one after another, round by round, so that all meet the same load.

    Args:
        contenders: What to run, by name.
        rounds: How often each is timed.
        warm: Run each once before.

    Returns:
        ``seconds`` and ``cpu_seconds`` of every round, by name.
    """
    costs: dict[str, Costs] = {name: {"seconds": [], "cpu_seconds": []} for name in contenders}
    for number in range(rounds + warm):
        for name, run in contenders.items():
            gc.collect()
            synchronize()
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            synchronize()
            if number >= warm:
                costs[name]["seconds"].append(time.perf_counter() - wall)
                costs[name]["cpu_seconds"].append(time.process_time() - cpu)
    return costs


def seconds(costs: Costs) -> float:
    """Median of the rounds."""
    return median(costs["seconds"])


def device() -> torch.device:
    """A CUDA device where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def product_rate(n: int, dim: int, repeats: int = 7) -> float:
    """Operations a second of an (n, dim) x (dim, n) matrix product in float32, the median."""
    a = torch.randn(n, dim, device=device())
    product = torch.empty(n, n, device=device())
    costs = by_turns({"product": lambda: torch.mm(a, a.T, out=product)}, repeats)
    return 2 * n * n * dim / seconds(costs["product"])


def copy_rate(repeats: int = 7) -> float:
    """Bytes a second that a copy of 256 MB reads and writes, the median."""
    source = torch.zeros(2**26, device=device())
    target = torch.ones_like(source)
    costs = by_turns({"copy": lambda: target.copy_(source)}, repeats)
    return 2 * source.nbytes / seconds(costs["copy"])


def in_own_process(module: str, *words: object) -> str:
    """What ``python -m module words`` prints, so that its peak of memory is its own."""
    command = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def peak_growth(run: Callable[[], Any]) -> int:
    """By how many bytes the peak of memory passes what was held before ``run``.

    Of the device where there is one, else of this process's resident memory, for which the process
    has to be a fresh one.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - held
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    run()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 - held
