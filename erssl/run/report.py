"""The report of a run or an evaluation: its table, its curves, how to do it again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erssl.escaping import markdown_code, markdown_row, markdown_text
from erssl.files import write_text
from erssl.run.directory import HEADER, LENS, LENS_FIGURE, METRICS, read_lens, read_metrics
from erssl.run.plots import Plots, plot_curves

FROM_GIVEN = "before training, from the given weights"


def write_report(results: Mapping[str, Any], run_dir: Path, plots: Plots = "png") -> None:
    """Write ``report.md`` and ``curves.png``.

    Args:
        results: The content of ``results.json``.
        run_dir: The run directory, which holds ``metrics.csv``.
        plots: Format of the curves beside PNG.
    """
    file = run_dir / METRICS
    curves = read_metrics(file) if file.is_file() else {}
    drawn = plot_curves(
        curves,
        results["metrics"],
        run_dir / "curves.png",
        metric_label("knn_top1", results).replace("knn_top1", "kNN top-1"),
        plots,
        "before" if results["config"].get("checkpoint") else "untrained",
    )
    lens = (run_dir / LENS_FIGURE).is_file()
    metrics = results["metrics"].items()
    rows = [markdown_row((_row_label(name, results), _shown(name, v))) for name, v in metrics]
    lines = [
        f"# {markdown_text(results['method'])} on {markdown_text(results['dataset'])}",
        "",
        markdown_code(results["environment"]["command"]),
        "",
        "| metric | value |",
        "|---|---|",
        *rows,
        "",
        "Accuracies, where there are some, are those of the last epoch on the validation split.",
        "",
        *warning_lines(results),
        "![curves](curves.png)" if drawn else "The run was too short to log a curve.",
        "",
        *(["![entropy and reconstruction](lens.png)", ""] if lens else []),
        *_headline(run_dir / LENS),
        *_header(run_dir / HEADER),
        _how(results),
    ]
    write_text(run_dir / "report.md", "\n".join(lines) + "\n")


def _header(file: Path) -> list[str]:
    """What the run said of itself before it began, such as what it starts from, as a list."""
    if not file.is_file():  # written by an earlier version
        return []
    text = file.read_text(encoding="utf-8", errors="backslashreplace")
    return [*(f"- {markdown_text(line)}" for line in text.splitlines()), ""]


def _headline(file: Path) -> list[str]:
    """How far below the uniform density the lens read the entropy at last."""
    last = (read_lens(file) or [{}])[-1] if file.is_file() else {}
    if "nats_below_uniform_knn" not in last:  # written by an earlier version
        return []
    read = [
        f"{_shown('', last[column])} {what}"
        for column, what in (
            ("nats_below_uniform_kde", "at most, in expectation (held-out kernel density)"),
            ("nats_below_uniform_knn", "by an estimate (nearest neighbours)"),
        )
        if column in last
    ]
    return [
        f"Entropy of the lens's embeddings at step {last['step']:.0f}, in nats below the uniform "
        f"density, which is 0: {'; '.join(read)}. `train_nats_below_uniform` is that estimate on "
        "a training batch.",
        "",
    ]


_TRAINED = (
    "Accuracies are those of the last epoch on the validation split; best_on_val chose its "
    "epoch on that split."
)
_MEASURED = "Accuracies are those on the validation split."


def write_evaluation_report(
    results: Mapping[str, Any],
    folder: Path,
    images: Sequence[str] = (),
    about: str = "",
) -> None:
    """Write the ``report.md`` of an evaluation.

    Args:
        results: The content of ``results.json``.
        folder: Where it goes.
        images: Names of images in that folder.
        about: What the metrics are; empty: accuracies.
    """
    metrics = results["metrics"].items()
    accuracies = _TRAINED if "best_on_val_top1" in results["metrics"] else _MEASURED
    rows = [markdown_row((metric_label(name, results), _shown(name, v))) for name, v in metrics]
    fitted = results["config"].get("fitted")
    assumed = "; ".join(results["config"].get("assumed", ()))
    lines = [
        f"# {results['protocol']}: {markdown_text(results['method'])} on "
        f"{markdown_text(results['dataset'])}",
        "",
        markdown_code(results["environment"]["command"]),
        "",
        "| metric | value |",
        "|---|---|",
        *rows,
        "",
        markdown_text(about or accuracies),
        "",
        *([markdown_text(fitted), ""] if fitted else []),
        *([markdown_text(f"Assumed of the network: {assumed}."), ""] if assumed else []),
        *warning_lines(results),
        *map(markdown_text, published_lines(results["published"])),
        "",
        *(line for name in images for line in (f"![{name}]({name})", "")),
        _how(results),
    ]
    write_text(folder / "report.md", "\n".join(lines) + "\n")


def published_lines(published: Mapping[str, Any] | None) -> list[str]:
    """Published numbers of the same protocol, each group in a line that says where it is from."""
    lines = []
    for group in published["groups"] if published else ():
        metrics = list(dict.fromkeys(k for values in group["rows"].values() for k in values))
        rows = []
        for method, values in group["rows"].items():
            numbers = (f"{values[k]:g}" if k in values else "-" for k in metrics)
            rows.append(f"{method} {' / '.join(numbers)}")
        unit = "per cent" if group["unit"] == "percent" else group["unit"]
        setting = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in group["setting"].items())
        note = f" {group['note']}" if "note" in group else ""
        lines.append(
            f"Published ({' / '.join(metrics)}, {unit}; {setting}; {group['source']}): "
            f"{', '.join(rows)}.{note}"
        )
    return lines


def warning_lines(results: Mapping[str, Any]) -> list[str]:
    """What is doubtful in the results, for a report."""
    doubtful = map(markdown_text, results.get("warnings", ()))
    return [line for text in doubtful for line in (f"**Warning:** {text}", "")]


def metric_label(name: str, results: Mapping[str, Any]) -> str:
    """A metric's name, with what else kNN was asked where it is an accuracy of kNN.

    Args:
        name: Of the metric.
        results: The content of ``results.json`` that holds it.
    """
    config = results["config"]
    if results["protocol"] == "knn":
        k = config.get("k")
    elif name.startswith("features_knn_"):
        k = config.get("features_k")
    elif name.startswith(("knn_", "untrained_knn_")):
        k = config.get("evaluation", {}).get("knn_k")
    else:
        return name
    if k is None:
        return name
    white = ", whitened" if results["protocol"] == "knn" and config.get("whiten") else ""
    return f"{name} (k={k}{white})"


def before_training(config: Mapping[str, Any]) -> str:
    """What the network that a run began with is called: of given weights, it is not untrained."""
    return FROM_GIVEN if config.get("checkpoint") else "untrained"


def _row_label(name: str, results: Mapping[str, Any]) -> str:
    """A metric's name in the table of a pretraining."""
    label = metric_label(name, results)
    given = name.startswith("untrained_") and results["config"].get("checkpoint")
    return f"{label.removeprefix('untrained_')} {FROM_GIVEN}" if given else label


def _shown(name: str, value: float) -> str:
    if value == -math.inf:
        return "collapsed"
    return f"{value:.0f}" if name.endswith("epoch") else f"{value:.4f}"


def _how(results: Mapping[str, Any]) -> str:
    environment = results["environment"]
    versions = ", ".join(f"{name} {v}" for name, v in environment["packages"].items())
    return (
        f"Seed {results['seed']}; {results['wall_seconds']:.0f} s on {environment['device']}; "
        f"Python {environment['python']}, {versions}. The resolved settings are in config.yaml."
    )
