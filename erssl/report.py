"""The report of a run: its table, its curves, how to do it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erssl.plots import plot_curves
from erssl.runs import LENS_PICTURE, METRICS, read_metrics, write_text


def write_report(results: Mapping[str, Any], run_dir: Path) -> None:
    """Write ``report.md`` and ``curves.png``.

    Args:
        results: The content of ``results.json``.
        run_dir: The run directory, which holds ``metrics.csv``.
    """
    file = run_dir / METRICS
    curves = read_metrics(file) if file.is_file() else {}
    drawn = plot_curves(curves, results["metrics"], run_dir / "curves.png")
    lens = (run_dir / LENS_PICTURE).is_file()
    environment = results["environment"]
    rows = [f"| {name} | {value:.4f} |" for name, value in results["metrics"].items()]
    versions = ", ".join(f"{name} {v}" for name, v in environment["packages"].items())
    lines = [
        f"# {results['method']} on {results['dataset']}",
        "",
        f"`{environment['command']}`",
        "",
        "| metric | value |",
        "|---|---|",
        *rows,
        "",
        "Accuracies, where there are some, are those of the last epoch on the validation split.",
        "",
        "![curves](curves.png)" if drawn else "The run was too short to log a curve.",
        "",
        *(["![entropy and reconstruction](lens.png)", ""] if lens else []),
        f"Seed {results['seed']}; {results['wall_seconds']:.0f} s on {environment['device']}; "
        f"Python {environment['python']}, {versions}. The resolved settings are in config.yaml.",
    ]
    write_text(run_dir / "report.md", "\n".join(lines) + "\n")
