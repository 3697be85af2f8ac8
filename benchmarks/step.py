"""How long does a training step of MVEB take beside lightly's BYOL, and how much memory?

    python -m benchmarks.step

ResNet-50, two views of 224², an EMA target, lightly's online classifier of 1,000 classes and LARS:
a step is the forward pass of all views, the loss, the backward pass, LARS and the EMA, without its
data. The peer is put together from lightly's parts in the order of its ImageNet benchmark of BYOL:
a pass of each branch for each view, the EMA before them. Both run at the same settings: float32,
channels-last memory, autocast to bfloat16 with it, and on CUDA compiled backbones (``--compile``
asks for them on a CPU). Each contender and setting has a process of its own, the two take steps by
turns, and medians are compared.

Memory is the peak of CUDA's allocator; on a CPU the bytes that autograd keeps for the backward
pass, each storage once and weights not counted, and beside it the peak resident size. The floor is
the arithmetic of a step, counted by torch, at the rate of a matrix product in the setting's type,
and the time to write and read once what autograd keeps. A profile of one step counts what waits for
the device. The first step, which compiles, is timed by itself. Writes
``benchmarks/results/step.json`` (``_cuda`` of a GPU).
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

import torch

from benchmarks._steps import CONTENDERS, SIZE, Plan, Setting, Worker
from benchmarks._timing import copy_rate, product_rate, result_file
from erssl.files import write_json
from erssl.run.directory import environment

SETTINGS = (
    Setting("float32"),
    Setting("float32, channels-last", channels_last=True),
    Setting("bfloat16, channels-last", channels_last=True, bfloat16=True),
    Setting("bfloat16, channels-last, compiled", True, True, True),
)


def plan(options: argparse.Namespace) -> Plan:
    """What is measured here; a CPU takes seconds for a step of few images."""
    cuda = torch.cuda.is_available()
    compiled = cuda or options.compile
    batch, turns, steps = (128, 9, 5) if cuda else (8, 3, 1)
    settings = tuple(s for s in SETTINGS if compiled or not s.compiled)
    batch, turns = options.batch or batch, options.turns or turns
    return Plan("cuda" if cuda else "cpu", batch, turns, steps, settings)


def main(options: argparse.Namespace) -> None:
    asked = plan(options)
    rows: list[dict[str, Any]] = []
    for setting in asked.settings:
        rows += compare(asked, setting)
        print(f"\n{table(rows)}", flush=True)
    report = {
        "command": "python -m benchmarks.step",
        "setting": {"batch": asked.batch, "size": SIZE, "views": 2, "device": asked.device},
        "threads": torch.get_num_threads(),
        "turns": asked.turns,
        "steps_in_a_turn": asked.steps,
        "rows": rows,
        "ratios": ratios(rows),
        "environment": environment(torch.device(asked.device)),
    }
    report["environment"]["command"] = report["command"]
    if not options.dry:
        write_json(result_file("step"), report)
    for row in ratios(rows):
        memory = "" if row["memory"] is None else f", memory {row['memory']:.3f}"
        print(
            f"{row['setting']}: time {row['seconds']:.3f}, CPU time {row['cpu_seconds']:.3f}"
            f"{memory} of BYOL's; "
            f"time {row['seconds_by_plain']:.3f} of its in float32"
        )
    for row in rows:
        print(f"{row['setting']}, {row['contender']}: first step {row['first_seconds']:.1f} s")
    for row in rows[:2]:
        print(f"\n{row['contender']}, {row['setting']}, operations by own time:")
        print("\n".join(f"  {share:6.1%}  {name}" for name, share in row["profile"]))


def compare(asked: Plan, setting: Setting) -> list[dict[str, Any]]:
    """Both contenders at one setting, by turns."""
    dtype = torch.bfloat16 if setting.bfloat16 else torch.float32
    side = 8192 if asked.device == "cuda" else 1536
    torch.set_float32_matmul_precision("high")  # as torch lets convolutions compute on CUDA
    rates = [(product_rate(side, side, side, dtype), copy_rate())]
    workers = {name: Worker(name, asked, setting) for name in CONTENDERS}
    for worker in workers.values():  # one after the other, lest they disturb each other's profile
        worker.facts = worker.ask("facts")
    turns = [{n: w.ask("turn") for n, w in workers.items()} for _ in range(asked.turns)]
    rates.append(
        (product_rate(side, side, side, dtype), copy_rate())
    )  # a machine may have been busy
    rate, bytes_rate = map(max, zip(*rates, strict=True))
    rows = []
    for name, worker in workers.items():
        memory = worker.ask("memory")
        worker.close()
        seconds, cpu_seconds = zip(*(done[name] for done in turns), strict=True)
        row = {"setting": setting.name, "contender": name}
        row |= {"seconds": list(seconds), "cpu_seconds": list(cpu_seconds)}
        if "flops" in worker.facts:
            row["floor_arithmetic_seconds"] = worker.facts["flops"] / rate
            row["floor_bytes_seconds"] = 2 * worker.facts["kept_bytes"] / bytes_rate
        rows.append(row | worker.facts | memory)
    return rows


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours by lightly's at each setting, and by lightly's as it comes, in the first."""
    compared = []
    plain = median(rows[1]["seconds"])
    for own, other in zip(rows[::2], rows[1::2], strict=True):
        memory = "cuda_mib" if "cuda_mib" in own else "kept_bytes"
        row = {cost: median(own[cost]) / median(other[cost]) for cost in ("seconds", "cpu_seconds")}
        row["seconds_by_plain"] = median(own["seconds"]) / plain
        by_memory = own[memory] / other[memory] if memory in own else None  # of compiled on a CPU
        compared.append(
            {"setting": own["setting"], **row, "memory_is": memory, "memory": by_memory}
        )
    return compared


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of times, floors, memory and waits."""
    lines = [
        "| setting | contender | s a step | CPU s | floor, arithmetic | floor, bytes | kept MiB | "
        "peak MiB | waits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peak = row.get("cuda_mib", row["resident_mib"])
        kept = f"{row['kept_bytes'] / 2**20:.0f}" if "kept_bytes" in row else ""
        floors = [row.get(f"floor_{k}_seconds") for k in ("arithmetic", "bytes")]
        first, second = ("" if floor is None else f"{floor:.3f}" for floor in floors)
        lines.append(
            f"| {row['setting']} | {row['contender']} | {median(row['seconds']):.3f} | "
            f"{median(row['cpu_seconds']):.2f} | {first} | {second} | {kept} | "
            f"{peak:.0f} | {sum(row['waits'].values())} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, help="images; 128 on CUDA, 8 on a CPU")
    parser.add_argument("--turns", type=int, help="of each contender; 9 on CUDA, 3 on a CPU")
    parser.add_argument("--compile", action="store_true", help="also compiled, on a CPU")
    parser.add_argument("--dry", action="store_true", help="write no results")
    main(parser.parse_args())
