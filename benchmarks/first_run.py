"""How long does README's first command take, and does it learn as much?

    python -m benchmarks.first_run --before <a checkout of an earlier build>

Fresh processes by turns, this build's and the other's: ``erssl pretrain method=mveb seed=<seed>``,
wall and processor seconds of the whole process, and the accuracies that the run ends with. Without
``--before`` this build alone. Both use the packages of this environment. Writes
``benchmarks/results/first_run.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._runs import RESULTS
from erssl.files import write_json
from erssl.run.directory import environment

ROOT = Path(__file__).resolve().parent.parent
# configs and downstream stand at the top of a checkout and belong into the package
AS_PACKAGE = """import importlib.util, sys
root = sys.argv.pop(1)
sys.path.insert(0, root)
import erssl
for name in ("configs", "downstream"):
    where = [f"{root}/{name}"]
    spec = importlib.util.spec_from_file_location(
        f"erssl.{name}", f"{where[0]}/__init__.py", submodule_search_locations=where
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"erssl.{name}"] = module
    spec.loader.exec_module(module)
from erssl.cli.main import main
sys.exit(main())
"""
ACCURACIES = ("untrained_knn_top1", "untrained_linear_top1", "knn_top1", "linear_top1")


def main(options: argparse.Namespace) -> None:
    builds = {"this build": ROOT}
    if options.before is not None:
        builds["before"] = options.before.resolve()
    rows = [
        {"build": build, "seed": seed, **first_run(root, seed)}
        for seed in options.seeds
        for _ in range(options.n)
        for build, root in builds.items()
    ]
    report = {
        "command": "python -m benchmarks.first_run",
        "first_command": "erssl pretrain method=mveb",
        "commits": {build: commit(root) for build, root in builds.items()},
        "rows": rows,
        "environment": environment(),
    }
    report["environment"]["command"] = report["command"]  # without folders of this machine
    if len(builds) > 1:
        report["ratio"] = {
            key: round(middle(rows, "this build", key) / middle(rows, "before", key), 3)
            for key in ("seconds", "cpu_seconds")
        }
    if not options.dry:
        write_json(RESULTS / "first_run.json", report)
    for row in rows:
        print(json.dumps(row))
    print(report.get("ratio", ""))


def first_run(root: Path, seed: int) -> dict[str, Any]:
    """Seconds and accuracies of README's first command, of the build in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        command = [sys.executable, "-c", AS_PACKAGE, str(root), "pretrain", "method=mveb"]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [*command, f"seed={seed}", f"run_dir={run}"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        metrics = json.loads((run / "results.json").read_text(encoding="utf-8"))["metrics"]
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(spent, 2),
        **{name: round(metrics[name], 4) for name in ACCURACIES},
    }


def middle(rows: list[dict[str, Any]], build: str, key: str) -> float:
    """Median over the runs of a build."""
    return median(row[key] for row in rows if row["build"] == build)


def commit(root: Path) -> str:
    """The commit that a checkout is at."""
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path, help="a checkout of the build to compare with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("-n", type=int, default=1, help="runs of each build and seed")
    parser.add_argument("--dry", action="store_true", help="write no results")
    main(parser.parse_args())
