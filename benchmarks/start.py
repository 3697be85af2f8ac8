"""How long does erssl take to start?

    python -m benchmarks.start

Fresh processes by turns: ``erssl --help``, ``erssl pretrain --help``, a misspelt override, which is
refused before torch is imported, a wrong value, which is refused after all that a pretraining
imports, ``import torch``, ``import erssl``, and the imports of a pretraining alone. Beside the wall
time stands the processor time, which tells less of a busy machine. What ``import erssl`` adds to
``import torch`` is timed inside of a process that has imported torch. The heaviest packages of a
pretraining are those of ``python -X importtime`` with the longest time of their own. The floor is
Python's own start. Writes ``benchmarks/results/start.json``.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from statistics import median
from typing import Any

from benchmarks._runs import RESULTS
from erssl.files import write_json
from erssl.run.directory import environment

ERSSL = (sys.executable, "-m", "erssl.cli.main")
MISSPELT, WRONG = "erssl pretrain epohcs=3", "erssl pretrain epochs=0"
COMMANDS = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "erssl --help": (*ERSSL, "--help"),
    "erssl pretrain --help": (*ERSSL, "pretrain", "--help"),
    MISSPELT: (*ERSSL, "pretrain", "epohcs=3"),
    WRONG: (*ERSSL, "pretrain", "epochs=0"),
    "import erssl": (sys.executable, "-c", "import erssl"),
    "import torch": (sys.executable, "-c", "import torch"),
    "import erssl.protocols.pretrain": (sys.executable, "-c", "import erssl.protocols.pretrain"),
}
BEYOND = "import erssl beyond torch"
AFTER_TORCH = """import time, torch
start, cpu = time.perf_counter(), time.process_time()
import erssl
print(time.perf_counter() - start, time.process_time() - cpu)
"""
TARGETS = {"erssl --help": 0.05, "erssl pretrain --help": 0.25, MISSPELT: 1.0, BEYOND: 0.1}


def main(options: argparse.Namespace) -> None:
    for command in COMMANDS.values():
        spent(command)  # files come from memory from now on, byte code is written
    rounds = [
        {**{name: spent(command) for name, command in COMMANDS.items()}, BEYOND: beyond_torch()}
        for _ in range(options.n)
    ]
    rows = [
        {
            "what": name,
            "seconds": [done[name][0] for done in rounds],
            "cpu_seconds": [done[name][1] for done in rounds],
        }
        for name in (*COMMANDS, BEYOND)
    ]
    report = {
        "command": "python -m benchmarks.start",
        "processes_of_each": options.n,
        "targets_seconds": TARGETS,
        "rows": rows,
        "heaviest_imports_seconds": heaviest(),
        "environment": environment(),
    }
    report["environment"]["command"] = report["command"]
    if not options.dry:
        write_json(RESULTS / "start.json", report)
    print(table(rows))
    print("\nown import time of erssl.protocols.pretrain, by package:")
    for name, seconds in report["heaviest_imports_seconds"].items():
        print(f"  {seconds:6.3f} s  {name}")


def spent(command: tuple[str, ...]) -> tuple[float, float]:
    """Wall and processor seconds of a process, which may refuse what it is given."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    quiet = subprocess.DEVNULL
    status = subprocess.run(command, check=False, stdout=quiet, stderr=quiet).returncode
    seconds = time.perf_counter() - start
    if status not in (0, 2):
        raise SystemExit(f"{' '.join(command)} ended with status {status}.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def beyond_torch() -> tuple[float, float]:
    """Wall and processor seconds of ``import erssl`` where torch is there."""
    command = (sys.executable, "-c", AFTER_TORCH)
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, cpu = map(float, answer.split())
    return seconds, cpu


def heaviest(count: int = 12) -> dict[str, float]:
    """Packages whose modules take longest to import, in all, of what ``erssl pretrain`` needs."""
    command = (sys.executable, "-X", "importtime", "-c", "import erssl.protocols.pretrain")
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    own: Counter[str] = Counter()
    for microseconds, module in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", lines):
        own[module.partition(".")[0]] += int(microseconds)
    return {name: total / 1e6 for name, total in own.most_common(count)}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of medians."""
    lines = ["| what | median s | CPU s | target |", "|---|---|---|---|"]
    for row in rows:
        target = TARGETS.get(row["what"])
        lines.append(
            f"| `{row['what']}` | {median(row['seconds']):.3f} | "
            f"{median(row['cpu_seconds']):.3f} | {'–' if target is None else f'{target} s'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=7, help="processes of each command")
    parser.add_argument("--dry", action="store_true", help="write no results")
    main(parser.parse_args())
