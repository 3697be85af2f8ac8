"""The report of a run: its table, its curves, how to do it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erssl.runs import METRICS, read_metrics, write_text

Curves = dict[str, list[tuple[int, float]]]

_PANELS = (
    ("train_loss", "loss"),
    ("train_entropy", "entropy, nats (KDE, κ = 10)"),
    ("train_alignment", "alignment (mean cosine)"),
    ("val_knn_top1", "kNN top-1"),
)
_BLUE, _GREY = "#0072B2", "#666666"  # Okabe and Ito's colour-blind safe palette


def write_report(results: Mapping[str, Any], run_dir: Path) -> None:
    """Write ``report.md`` and ``curves.png``.

    Args:
        results: The content of ``results.json``.
        run_dir: The run directory, which holds ``metrics.csv``.
    """
    file = run_dir / METRICS
    curves = read_metrics(file) if file.is_file() else {}
    drawn = plot_curves(curves, results["metrics"], run_dir / "curves.png")
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
        f"Seed {results['seed']}; {results['wall_seconds']:.0f} s on {environment['device']}; "
        f"Python {environment['python']}, {versions}. The resolved settings are in config.yaml.",
    ]
    write_text(run_dir / "report.md", "\n".join(lines) + "\n")


def plot_curves(curves: Curves, metrics: Mapping[str, Any], path: Path) -> bool:
    """Draw loss, entropy, alignment and kNN accuracy over optimiser steps.

    Args:
        curves: (step, value) pairs by metric name.
        metrics: Final metrics; ``untrained_knn_top1`` is drawn as a dashed line.
        path: The PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    panels = [(name, label) for name, label in _PANELS if name in curves]
    if not panels:
        return False
    figure = Figure(figsize=(3.2 * len(panels), 2.6), dpi=110, layout="constrained")
    for index, (name, label) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        steps, values = zip(*curves[name], strict=True)
        axes.plot(steps, values, color=_BLUE, linewidth=1.5)
        axes.set(title=label, xlabel="step")
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.25)
        untrained = metrics.get("untrained_knn_top1")
        if name == "val_knn_top1" and untrained is not None:
            axes.axhline(untrained, color=_GREY, linestyle="--", linewidth=1)
            axes.annotate(
                "untrained",
                (steps[-1], untrained),
                color=_GREY,
                fontsize=8,
                ha="right",
                va="bottom",
            )
    figure.savefig(path)
    return True
