"""Everything that only a GPU can answer, within a given time and in the order of its worth.

    python -m benchmarks.on_gpu [--minutes 12] [--only device_views features] [--dry]
        [--images <folder with train/ and test/>]

Runs tests that need CUDA or train there, then the benchmarks, or what is named, each in a process
of its own with a limit of seconds and none once the time is over, so that whatever was
measured until then is there. ``benchmarks/results/on_gpu.json`` says what ran, for how long, what
failed with its last lines, and what there was no time for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks._runs import RESULTS
from erssl.files import write_json
from erssl.run.directory import environment

_TAIL = 40  # lines of what failed


class Question(NamedTuple):
    """One thing to find out."""

    name: str
    command: tuple[str, ...]
    seconds: int  # at most
    answers: str


def questions(images: Path | None) -> list[Question]:
    """What is asked, the most wanted first."""
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-n")
    asked = [
        Question(
            "tests",
            (*tests, "0", "tests/data/test_device_views.py", "tests/evaluation/test_knn.py"),
            90,
            "views and kNN on the device equal those on the CPU",
        ),
        Question(
            "training_tests",
            (*tests, "auto", "tests/methods", "tests/models", "tests/run"),
            150,
            "what is trained and resumed there is as on the CPU",
        ),
        Question("losses", ("-m", "benchmarks.losses"), 90, "time of each loss beside NT-Xent"),
        Question("device_views", ("-m", "benchmarks.device_views"), 90, "the 5 % of device views"),
        Question("step", ("-m", "benchmarks.step"), 150, "a ResNet-50 step beside lightly's BYOL"),
        Question(
            "features",
            ("-m", "benchmarks.features", "--images", "512"),
            60,
            "features in float32 and bf16",
        ),
        Question("linear", ("-m", "benchmarks.linear", "-n", "3"), 60, "a cached linear layer"),
        Question("loss_memory", ("-m", "benchmarks.loss_memory"), 180, "peak memory of each loss"),
    ]
    if images is not None:
        training = ("-m", "benchmarks.cifar_training", str(images), "--epochs", "20")
        asked.append(Question("cifar_training", training, 240, "images a second, kNN"))
    return asked


def run(question: Question, seconds: float) -> dict[str, Any]:
    """Ask one, for a number of seconds at most."""
    began = time.perf_counter()
    command = [sys.executable, *question.command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        status, said = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        status, said = (
            124,
            "".join(
                part.decode(errors="replace") if isinstance(part, bytes) else part or ""
                for part in (late.stdout, late.stderr)
            ),
        )
    lines = said.splitlines()[-_TAIL:]
    answer: dict[str, Any] = {"answers": question.answers, "status": status}
    answer["seconds"] = round(time.perf_counter() - began, 1)
    return answer | ({} if status == 0 else {"last_lines": lines})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--images", type=Path, help="CIFAR-10 as folders of images")
    parser.add_argument("--only", nargs="+", help="names of what is asked, in this order")
    parser.add_argument("--dry", action="store_true", help="print the order and its limits")
    arguments = parser.parse_args()
    known = {each.name: each for each in questions(arguments.images)}
    if unknown := set(arguments.only or ()) - set(known):
        parser.error(f"{', '.join(sorted(unknown))} is not asked; known are {', '.join(known)}.")
    asked = [known[name] for name in arguments.only or known]
    if arguments.dry:
        for each in asked:
            print(f"{each.name:<16}{each.seconds:>4} s  {each.answers}")
        return
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device; see --dry for what would be run.")
    end = time.perf_counter() + 60 * arguments.minutes
    report: dict[str, Any] = {"asked": {}, "no_time_for": []}
    report["environment"] = environment(torch.device("cuda"))
    report["environment"]["command"] = "python -m benchmarks.on_gpu"
    for each in asked:
        left = end - time.perf_counter()
        if left < 20:
            report["no_time_for"].append(each.name)
        else:
            report["asked"][each.name] = run(each, min(each.seconds, left))
            print(each.name, report["asked"][each.name], flush=True)
        write_json(RESULTS / "on_gpu.json", report)


if __name__ == "__main__":
    main()
