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

from benchmarks._runs import RESULTS

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


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a call, the device's work included."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def product_rate(
    rows: int, columns: int, inner: int, dtype: torch.dtype = torch.float32, repeats: int = 7
) -> float:
    """Operations a second of an (rows, inner) x (inner, columns) matrix product, the median.

    A multiply-add counts as two.
    """
    a = torch.randn(rows, inner, device=device(), dtype=dtype)
    b = torch.randn(inner, columns, device=device(), dtype=dtype)
    product = torch.mm(a, b)
    taken = [timed(lambda: torch.mm(a, b, out=product)) for _ in range(repeats)]
    return 2 * rows * columns * inner / median(taken)


def copy_rate(repeats: int = 7) -> float:
    """Bytes a second that a copy of 256 MB reads and writes, the median."""
    source = torch.zeros(2**26, device=device())
    target = torch.ones_like(source)
    return 2 * source.nbytes / median(timed(lambda: target.copy_(source)) for _ in range(repeats))


def result_file(name: str, suffix: str = "json") -> Path:
    """Where results go: those of a GPU beside those of a CPU."""
    return RESULTS / f"{name}{'_cuda' if device().type == 'cuda' else ''}.{suffix}"


def in_own_process(module: str, *arguments: object) -> str:
    """What ``python -m module arguments`` prints, so that its peak of memory is its own."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
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
