"""The tables of ``docs/results.md``: all methods on one setting, and each without its entropy.

    python -m benchmarks.method_table            # write the tables
    python -m benchmarks.method_table --steps …  # measure seconds a step before

Accuracies and readings are those of the studies ``methods``, ``collapse``, ``small_batch`` and
``weights`` at scale ``tiny``, from the records in ``docs/studies``. A step is the forward and
backward pass of both views through backbone and heads and the loss, on random images, without the
making of views and the optimiser: the median of five turns, in each of which every method has its
turn. It takes the overrides of ``erssl study methods`` that say where the images are, which are
only counted. Writes ``benchmarks/results/method_steps.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._pages import write_tables
from benchmarks._timing import result_file
from erssl.escaping import markdown_row
from erssl.files import write_json
from erssl.methods import get_method
from erssl.protocols.step_time import seconds_of_run
from erssl.run.directory import environment
from erssl.settings.pretrain import read_settings
from erssl.studies import read_study
from erssl.studies.metrics import title_of, value_of
from erssl.studies.seeds import mean, mean_text

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "results.md"
STEPS = result_file("method_steps")
TURNS = 5
KNN, LINEAR = "knn_top1", "linear_top1"
BELOW, ALIGNMENT = "embedding_nats_below_uniform_knn", "embedding_alignment"
RANK = "features_rankme"
ENTROPY = title_of(BELOW)
OFF = ", off"
Record = Mapping[str, Any]


def main(options: argparse.Namespace) -> None:
    if options.steps:
        write_json(STEPS, measure_steps(options.overrides))
    write_tables(PAGE, tables())


def measure_steps(overrides: Sequence[str]) -> dict[str, Any]:
    """Seconds a step of each method, with the machine."""
    study = read_study("methods")
    cells = study.grid(study.scale("tiny"), overrides, seeds=(0,)).cells
    settings = {cell.labels[0]: read_settings(list(cell.overrides))[0] for cell in cells}
    seconds: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(TURNS):
        for name, each in settings.items():
            known: dict[str, float] = {}
            seconds_of_run(each, known)
            seconds[name] += known.values()
    command = "python -m benchmarks.method_table --steps"
    return {
        "command": command,
        "seconds_a_step": {name: statistics.median(of) for name, of in seconds.items()},
        "threads": torch.get_num_threads(),
        "environment": {**environment(), "command": command},
    }


def tables() -> dict[str, str]:
    """All tables of the page, from the records."""
    steps = json.loads(STEPS.read_text(encoding="utf-8"))["seconds_a_step"]
    return {
        "methods": all_methods(record("methods"), steps),
        "collapse": switched_off(record("collapse")),
        "small_batch": batches(record("small_batch")),
        "weights": weights(record("weights")),
    }


def record(study: str) -> Record:
    """What a study left."""
    file = DOCS / "studies" / study / "study.json"
    content: Record = json.loads(file.read_text(encoding="utf-8"))
    return content


def all_methods(content: Record, steps: Mapping[str, float]) -> str:
    """A row for each method, the best accuracy of neighbours first."""
    (axis,) = content["axes"].values()
    rows = sorted(axis, key=lambda label: -mean(values(content, KNN, label)))
    heads = ["method", "keeps the entropy up by", "kNN (%)", "linear (%)"]
    heads += [ENTROPY, "effective rank", "alignment", "s a step"]
    lines = _head(heads)
    for label in rows:
        info = get_method(axis[label]["method"]).info
        numbers = [_text(content, key, label) for key in (KNN, LINEAR, BELOW, RANK, ALIGNMENT)]
        lines.append(markdown_row([label, info.entropy, *numbers, f"{steps[label]:.3f}"]))
    return "\n".join(lines)


def switched_off(content: Record) -> str:
    """Each method beside itself without its entropy term."""
    lines = _head(["method", "kNN (%)", "off", ENTROPY, "off", "alignment", "off"])
    (axis,) = content["axes"].values()
    for label in (label for label in axis if not label.endswith(OFF)):
        pairs = [
            _text(content, key, each)
            for key in (KNN, BELOW, ALIGNMENT)
            for each in (label, f"{label}{OFF}")
        ]
        lines.append(markdown_row([label, *pairs]))
    return "\n".join(lines)


def batches(content: Record) -> str:
    """Each method at both batches, the one that gains most from the small one first."""
    methods, batch = (list(options) for options in content["axes"].values())
    large, small = batch

    def gain(method: str) -> float:
        means = [mean(values(content, KNN, method, size)) for size in (small, large)]
        return 100 * (means[0] - means[1])

    heads = ["method", *(f"kNN, batch {size} (%)" for size in batch), "gain"]
    heads += [f"{ENTROPY}, {size}" for size in batch]
    lines = _head(heads)
    for method in sorted(methods, key=gain, reverse=True):
        accuracies = [_text(content, KNN, method, size) for size in batch]
        entropies = [_text(content, BELOW, method, size) for size in batch]
        lines.append(markdown_row([method, *accuracies, f"{gain(method):+.1f}", *entropies]))
    return "\n".join(lines)


def weights(content: Record) -> str:
    """Each setting of a weight."""
    lines = _head(["setting", "kNN (%)", ENTROPY, "effective rank", "alignment"])
    (axis,) = content["axes"].values()
    for label in axis:
        keys = (KNN, BELOW, RANK, ALIGNMENT)
        lines.append(markdown_row([label, *(_text(content, key, label) for key in keys)]))
    return "\n".join(lines)


def values(content: Record, metric: str, *labels: str) -> list[float]:
    """A metric of the seeds of a cell."""
    return [run["metrics"][metric] for run in _runs(content, labels) if metric in run["metrics"]]


def _runs(content: Record, labels: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    return (run for run in content["runs"] if tuple(run["labels"]) == labels)


def _text(content: Record, metric: str, *labels: str) -> str:
    of = values(content, metric, *labels)
    if not of:
        return "failed" if any(run["failure"] for run in _runs(content, labels)) else "–"
    digits = 2 if metric == ALIGNMENT else 1
    return mean_text([value_of(metric, value) for value in of], digits)


def _head(names: Sequence[str]) -> list[str]:
    return [markdown_row(names), "|" + "---|" * len(names)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", action="store_true", help="measure seconds a step before")
    parser.add_argument("overrides", nargs="*", help="of erssl study methods: where images are")
    main(parser.parse_args())
