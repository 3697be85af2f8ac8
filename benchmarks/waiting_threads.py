"""How long should torch's threads spin before they sleep, on a CPU?

    python -m benchmarks.waiting_threads [-n 3]

Between two operations the threads that share them wait for the next. One that sleeps is woken late;
one that spins takes the core from a loader process, or from another program. libgomp, which PyTorch
brings on Linux, spins as often as ``GOMP_SPINCOUNT`` says: `SPINS` are what
``OMP_WAIT_POLICY=PASSIVE`` comes to, what erssl sets, and what libgomp does by itself. Runs of
``erssl pretrain`` on the digits in processes of their own, by turns, with views made in the
training process and in a loader process, alone and beside a program that multiplies matrices on all
cores; the rate of the steps that the console tells. Writes
``benchmarks/results/waiting_threads.json``; a quarter of an hour.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._runs import RESULTS
from erssl.files import write_json
from erssl.run.directory import environment
from erssl.settings.waiting import SPINS as OURS

SPINS = (0, OURS, 300_000)
COMMON = (
    "method=simclr_er",
    "epochs=3",
    "trainer.precision=bf16-mixed",
    "channels_last=true",
    "evaluation.untrained=false",
    "evaluation.every_n_epochs=0",
    "evaluation.linear=false",
    "lens.probe_size=0",
)
RUNS = {
    "no loader process": ("data.pipeline=device",),
    "a loader process, fast": ("data.pipeline=fast", "data.num_workers=1"),
    "a loader process, lightly": ("data.pipeline=lightly", "data.num_workers=1"),
}
BUSY = "no loader process, a busy machine"
RUNS[BUSY] = RUNS["no loader process"]
OTHER_PROGRAM = "import torch; x = torch.randn(2048, 2048)\nwhile True: x @ x"


def main(options: argparse.Namespace) -> None:
    """Measure and write."""
    rates: dict[tuple[str, int], list[float]] = {(name, n): [] for name in RUNS for n in SPINS}
    for _ in range(options.n):
        for name, spins in rates:
            with other_program() if name == BUSY else nullcontext():
                rates[name, spins].append(rate(RUNS[name], spins))
    report = {
        "command": "python -m benchmarks.waiting_threads",
        "rows": [
            {"run": name, "spins": spins, "images_per_second": each}
            for (name, spins), each in rates.items()
        ],
        "environment": environment(),
    }
    report["environment"]["command"] = report["command"]
    write_json(RESULTS / "waiting_threads.json", report)
    print(table(report["rows"]))


@contextmanager
def other_program() -> Iterator[None]:
    """One that takes every core, as another training does."""
    with subprocess.Popen([sys.executable, "-c", OTHER_PROGRAM]) as process:
        try:
            yield
        finally:
            process.kill()


def rate(overrides: tuple[str, ...], spins: int) -> float:
    """Images a second of a run's later steps."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "erssl.cli.main", "pretrain", *COMMON, *overrides]
        said = subprocess.run(
            [*command, f"run_dir={Path(folder, 'run')}"],
            check=True,
            env={**os.environ, "GOMP_SPINCOUNT": str(spins)},
            capture_output=True,
            text=True,
        ).stderr
    return median(float(told) for told in re.findall(r"(\d+) images/s", said)[1:])


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| run | " + " | ".join(f"{n:,} spins" for n in SPINS) + " |", "|---" * 4 + "|"]
    for name in RUNS:
        own = {row["spins"]: row["images_per_second"] for row in rows if row["run"] == name}
        cells = [f"{median(own[n]):,.0f} ({min(own[n]):,.0f} to {max(own[n]):,.0f})" for n in SPINS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=3, help="runs of each")
    main(parser.parse_args())
