"""The end of an evaluation: results, report, and what is printed of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from erssl.files import write_json
from erssl.protocols.record import leave_results
from erssl.run.console import say
from erssl.run.directory import ENVIRONMENT, RESULTS, environment
from erssl.run.report import metric_label, published_lines, write_evaluation_report
from erssl.run.result import Result

_PUBLISHED = 3  # groups of published numbers that are printed; the report has all


def end_evaluation(
    folder: Path,
    device: torch.device,
    began: float,
    console: Console,
    *,
    figures: Sequence[str],
    note: str = "",
    **about: Any,
) -> Result:
    """Write results and report of an evaluation, and print them beside what is published.

    Args:
        folder: Where they go.
        device: Where it was computed.
        began: When, by ``time.perf_counter()``.
        console: Where it is printed.
        figures: Names of the figures that the report shows, which are in the folder.
        note: What the report says of the metrics, where they are no accuracies.
        **about: Arguments of :func:`erssl.run.directory.make_results`.

    Returns:
        The folder and the content of its ``results.json``.
    """
    surroundings = environment(device)
    write_json(folder / ENVIRONMENT, surroundings)
    results = leave_results(
        folder / RESULTS,
        report=lambda results: write_evaluation_report(results, folder, figures, note),
        environment=surroundings,
        wall_seconds=time.perf_counter() - began,
        **about,
    )
    print_results(results, folder, console)
    return Result.of(folder, results)


def print_results(results: Mapping[str, Any], path: Path, console: Console) -> None:
    """What came out, and what is published for the same protocol."""
    metrics = results["metrics"]
    say(console, f"{results['method']} on {results['dataset']}")
    table = Table("metric", results["protocol"], box=None, pad_edge=False)
    for name, value in metrics.items():
        if name.endswith("_std") or "_seed" in name:
            continue
        form = ".0f" if name.endswith("epoch") else ".2%"
        shown = f"{value:{form}}"
        if f"{name}_std" in metrics:
            shown += f" ± {metrics[f'{name}_std']:{form}}"
        table.add_row(metric_label(name, results), shown)
    console.print(table)
    for sentence in results.get("warnings", ()):
        say(console, f"Warning: {sentence}", style="yellow")
    lines = published_lines(results["published"])
    for line in lines[:_PUBLISHED]:
        say(console, line)
    if len(lines) > _PUBLISHED:
        console.print(f"{len(lines) - _PUBLISHED} more published settings are in the report.")
    say(console, f"\nResults: {path} ({results['wall_seconds']:.0f} s)")
