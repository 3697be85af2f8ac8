"""What the lens reads of short real runs, healthy and collapsing, for the guard to be held to.

    python -m benchmarks.guard_readings

Runs ``erssl pretrain`` on scikit-learn's digits, about two minutes a run on two CPU cores, and
keeps every reading. Writes ``benchmarks/results/guard_readings.json`` after every run, and goes on
from it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._runs import RESULTS, pretrain
from erssl.files import write_json
from erssl.run.directory import LENS, read_lens

FILE = RESULTS / "guard_readings.json"
UNMEASURED = (
    "evaluation.every_n_epochs=0",
    "evaluation.untrained=false",
    "evaluation.linear=false",
    "data.num_workers=0",
)
SHORT = ("epochs=4", "lens.every_n_steps=4")
# what the guard looks at, or says
COLUMNS = (
    "step",
    "nats_below_uniform_kde",
    "nats_below_uniform_knn",
    "entropy_k10",
    "mean_cosine",
    "effective_rank",
    "discrete_entropy",
    "discrete_i_er",
    "log_k",
    "log_sphere_area",
    "log_n",
)
HEALTHY: dict[str, tuple[str, ...]] = {
    "mveb": ("method=mveb", *SHORT),
    "simclr": ("method=simclr", *SHORT),
    "byol": ("method=byol", *SHORT),
    "dino": ("method=dino", *SHORT),
    "vicreg": (
        "method=vicreg",
        "optimizer.base_lr=0.02",
        "method.projection_dim=2048",
        "method.projection_hidden_dim=1024",
        "epochs=12",
        "lens.every_n_steps=8",
    ),
    "swav": ("method=swav", "epochs=12", "lens.every_n_steps=10"),
}
COLLAPSING: dict[str, tuple[str, ...]] = {
    "mveb without entropy": (
        "method=mveb",
        "method.beta=1e-6",
        "method.projection_dim=256",
        "method.projection_hidden_dim=256",
        "epochs=14",
        "lens.every_n_steps=11",
    ),
}


def main() -> None:
    report = json.loads(FILE.read_text()) if FILE.is_file() else {}
    for name, overrides in (HEALTHY | COLLAPSING).items():
        if name in report:
            continue
        with tempfile.TemporaryDirectory() as folder:
            pretrain([*overrides, *UNMEASURED], [], Path(folder, "run"))
            report[name] = kept(Path(folder, "run"), overrides)
        write_json(FILE, report)


def kept(run_dir: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Readings of a run, and how it was made."""
    results = json.loads((run_dir / "results.json").read_text())
    environment = {k: v for k, v in results["environment"].items() if k != "command"}
    readings = [
        {k: _digits(row[k]) for k in COLUMNS if k in row} for row in read_lens(run_dir / LENS)
    ]
    return {
        "command": f"erssl pretrain {' '.join((*overrides, *UNMEASURED))}",
        "seed": results["seed"],
        "environment": environment,
        "readings": readings,
    }


def _digits(value: float) -> float | None:
    """Six digits; -inf, which JSON has no word for, as ``None``."""
    return None if value == float("-inf") else float(f"{value:.6g}")


if __name__ == "__main__":
    main()
