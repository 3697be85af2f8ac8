"""Can anything that a user's files and command lines hold end in more than one of our errors?

    python -m benchmarks.fuzz

The cases of ``tests/fuzz``, at least 10,000 of them: files that are damaged, made up or hostile,
and arguments of the command line. Each is accepted, or refused by one of our errors with a message
of one line; anything else is a failure: another exception, a case that takes too long or too much
memory, a process, a connection, an import by a pickle, or a file written outside of the case's
folder. The property is seen by an audit hook of the interpreter, in one process on one thread.
Writes ``benchmarks/results/fuzz.json`` and ends with status 1 where a case failed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from typing import Any

import hypothesis
import torch

from benchmarks._runs import RESULTS
from erssl.files import write_json
from erssl.run.directory import environment
from tests.fuzz import (
    test_annotations,
    test_arguments,
    test_checkpoints,
    test_images,
    test_masks,
    test_results,
    test_tables,
    test_transfer_lists,
)
from tests.fuzz.harness import MEMORY, SECONDS, Outcome, Surface, run_many

SURFACES: list[Surface] = [
    test_arguments.SURFACE,
    test_checkpoints.SURFACE,
    *test_images.SURFACES,
    test_transfer_lists.SURFACE,
    *test_annotations.SURFACES,
    *test_masks.SURFACES,
    *test_tables.SURFACES,
    *test_results.SURFACES,
]
_SHOWN = 20  # failures of a surface that are kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=11_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", default=[], help="surfaces by name; the others stay as recorded"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    shares = sum(surface.share for surface in SURFACES)
    began = time.perf_counter()
    file = RESULTS / "fuzz.json"
    surfaces = json.loads(file.read_text("utf-8"))["surfaces"] if options.only else {}
    for surface in SURFACES:
        if options.only and surface.name not in options.only:
            continue
        surfaces[surface.name] = outcome = measure(
            surface, -(-options.cases * surface.share // shares), options.seed
        )
        print(f"{surface.name}: {counted(outcome)}, {outcome['seconds']:.0f} s", flush=True)
    report: dict[str, Any] = {
        "command": f"python -m benchmarks.fuzz --cases {options.cases} --seed {options.seed}",
        "seed": options.seed,
        "limits": {"seconds_of_a_case": SECONDS, "bytes_of_a_case": MEMORY},
        "threads": torch.get_num_threads(),
        "totals": {
            key: sum(outcome[key] for outcome in surfaces.values())
            for key in ("cases", "distinct_cases", "accepted", "refused", "failed")
        },
        "surfaces": surfaces,
        "environment": environment(),
        "wall_seconds": time.perf_counter() - began,
    }
    report["environment"]["command"] = report["command"]
    report["environment"]["packages"]["hypothesis"] = hypothesis.__version__
    write_json(file, report)
    print(f"all: {counted(report['totals'])}, {report['wall_seconds']:.0f} s")
    return 1 if report["totals"]["failed"] else 0


def measure(surface: Surface, count: int, seed: int) -> dict[str, Any]:
    """Outcomes of the cases of one surface."""
    outcomes: Counter[tuple[str, str]] = Counter()
    different: set[int] = set()
    failures: dict[str, dict[str, str]] = {}
    slowest, before = 0.0, time.perf_counter()
    began = before

    def tell(case: Any, outcome: Outcome) -> None:
        nonlocal slowest, before
        now = time.perf_counter()
        slowest, before = max(slowest, now - before), now
        outcomes[outcome.kind, outcome.what] += 1
        different.add(hash(repr(case)))
        if outcome.kind == "failed" and len(failures) < _SHOWN:
            shown = {"case": repr(case)[:2000], "trace": outcome.trace[-3000:]}
            failures.setdefault(outcome.what, shown)

    run_many(surface, count, tell, seed)
    kinds = {
        kind: sum(n for (own, _), n in outcomes.items() if own == kind)
        for kind in ("accepted", "refused", "failed")
    }
    return {
        "cases": sum(kinds.values()),
        "distinct_cases": len(different),
        **kinds,
        "outcomes": {" ".join(filter(None, key)): number for key, number in outcomes.most_common()},
        "failures": failures,
        "seconds": time.perf_counter() - began,
        "slowest_seconds": slowest,
    }


def counted(outcome: dict[str, Any]) -> str:
    """The counts in a line."""
    return (
        f"{outcome['cases']} cases ({outcome['distinct_cases']} distinct), {outcome['accepted']} "
        f"accepted, {outcome['refused']} refused, {outcome['failed']} failed"
    )


if __name__ == "__main__":
    raise SystemExit(main())
