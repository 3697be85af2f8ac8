"""``erssl pretrain … --multirun``: several runs that differ in what was asked, and one table."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Transformer
from hydra.errors import HydraException
from rich.console import Console

from erssl.errors import ConfigError, RunError
from erssl.escaping import markdown_row
from erssl.files import write_json, write_text
from erssl.paths import user_path
from erssl.run.checkpoint_files import has_checkpoint
from erssl.run.children import Children, are_silent
from erssl.run.console import say, say_lines
from erssl.run.directory import (
    CONFIG,
    LAST_CHECKPOINT,
    LENS,
    LENS_FIGURE,
    RESULTS,
    default_run_dir,
    environment,
    only_begun,
    read_lens,
)
from erssl.run.launch import launch, run_one
from erssl.run.lens_figure import plot_lens
from erssl.run.plots import Plots
from erssl.run.report import before_training, metric_label
from erssl.run.result import Result
from erssl.run.summary import read_results
from erssl.run.waiting import wait_for_one
from erssl.settings.arguments import launcher_overrides, names_one
from erssl.settings.compose import group_options
from erssl.settings.pretrain import read_settings
from erssl.settings.pretrain_options import PretrainSettings

_PATHS = ("run_dir", "data.root", "data.train_dir", "data.val_dir")  # may hold commas
_OF_A_RUN = (CONFIG, RESULTS, LAST_CHECKPOINT)
_WHITENED = "knn_whitened_top1"  # a column where it was measured
_METRICS = {"knn_top1": "kNN top-1", _WHITENED: "whitened", "linear_top1": "linear top-1"}


@dataclass(frozen=True)
class Run:
    """One run of a comparison.

    Attributes:
        choices: What it has of each key that takes several values.
        overrides: Its settings, without ``run_dir``.
        path: Its run directory.
    """

    choices: dict[str, str]
    overrides: list[str]
    path: Path

    @property
    def row(self) -> tuple[str, ...]:
        """The row of the table that it belongs to: its choices but for the seed."""
        return tuple(v for k, v in self.choices.items() if k != "seed")


def run(overrides: Sequence[str], console: Console) -> Result:
    """Check every run, do them, print and keep the table.

    They are done one after another, each on all devices, or handed to a launcher of hydra.

    Raises:
        ErsslError: If the overrides are wrong, or some runs failed; the table has the others then.
    """
    launcher = launcher_overrides(overrides)
    runs, settings = plan([override for override in overrides if override not in launcher])
    folder = runs[0].path.parent
    taken = [
        item.path
        for item in runs
        if any((item.path / name).exists() for name in _OF_A_RUN) and not only_begun(item.path)
    ]
    if taken and not (settings.resume or settings.overwrite):
        raise RunError(
            f"{taken[0]} already holds a run; continue with resume=true, delete it with "
            "overwrite=true, or name another run_dir."
        )
    if launcher:
        for item in runs:
            wait_for_one([item.path], console)
        commands = [_overrides_of(item, settings) for item in runs]
        launch([["pretrain", *c] for c in commands], launcher=launcher, folder=folder / "launch")
    failed, said_by = [], []
    for number, item in enumerate(runs, 1):
        status = 0
        if not launcher:
            said = " ".join(f"{k}={v}" for k, v in item.choices.items())
            say(console, f"\nRun {number} of {len(runs)}: {said}")
            wait_for_one([item.path], console)
            status, sentence = start(_overrides_of(item, settings))
            said_by += [sentence] if sentence else []
        if status or not (item.path / RESULTS).is_file():
            failed.append(item)
    report: dict[str, Any] = {}
    finished = [item for item in runs if item not in failed]
    if finished:
        report = summarize(finished)
        report |= {"command": f"erssl pretrain {' '.join(overrides)} --multirun"}
        write_json(folder / "compare.json", report | {"environment": environment()})
        table = table_text(report)
        write_text(folder / "compare.md", table + "\n")
        _draw(finished, folder / LENS_FIGURE, settings.plots)
        say_lines(console, f"\n{table}")
        say(console, f"\nSee {folder}.")
    if failed:
        where = ", ".join(str(item.path) for item in failed)
        why = f" The first said: {said_by[0]}" if said_by else ""
        above = "" if console.quiet else ", and what each said is above"
        raise RunError(f"{len(failed)} of {len(runs)} runs failed{above}: {where}.{why}")
    return Result(folder, results=report)


def _overrides_of(item: Run, settings: PretrainSettings) -> list[str]:
    begun = has_checkpoint(item.path / LAST_CHECKPOINT) or (item.path / RESULTS).exists()
    resumable = settings.resume and begun
    state = [f"resume={resumable}".lower(), f"overwrite={not resumable}".lower()]
    return [*item.overrides, f"run_dir={item.path}", *state]


def start(overrides: Sequence[str]) -> tuple[int, str]:
    """One run in a process of its own: its exit status, and of a silent one the error it ended by.

    The random numbers of a run, and the processes that Lightning starts for its devices, are then
    those of a run that was started alone. What ends this process ends that one.
    """
    if are_silent():
        ended = run_one(["pretrain", *overrides])
        return ended.status, ended.sentence
    with Children().ended_together() as children:
        return children.run(["pretrain", *overrides]), ""


def plan(overrides: list[str]) -> tuple[list[Run], PretrainSettings]:
    """The runs that the overrides ask for, each checked as a single run is.

    A comma separates the values of a key: ``method=mveb,simclr seed=0,1`` are four runs. A key that
    begins with a method's name, ``mveb.beta=0.03``, is for the runs of that method alone.

    Raises:
        ConfigError: If the overrides are wrong for any of the runs, or ask for one run only.
    """
    methods = group_options("method")
    own: dict[str, list[str]] = {}
    shared: list[str] = []
    for override in overrides:
        first, _, rest = override.partition(".")
        if first in methods and rest:
            own.setdefault(first, []).append(f"method.{rest}")
        else:
            shared.append(override)
    said = dict(override.partition("=")[::2] for override in shared)
    shared = [
        override
        for override in shared
        if override.partition("=")[0] not in ("run_dir", "resume", "overwrite")
    ]
    swept = {
        key: values for override in shared for key, values in [_values(override)] if len(values) > 1
    }
    if not swept:
        raise ConfigError(names_one())
    if said.get("resume") == "true" and "run_dir" not in said:
        raise ConfigError("resume=true needs run_dir=<the comparison to continue>.")
    fixed = [override for override in shared if override.partition("=")[0] not in swept]
    # An experiment may name the method; what is fixed need not fit any other than the runs' own.
    one_run = [*fixed, *(f"{k}={v[0]}" for k, v in swept.items())]
    methods_run = swept.get("method") or [read_settings(one_run)[0].method["name"]]
    unused = set(own) - set(methods_run)
    if unused:
        raise ConfigError(
            f"{own[min(unused)][0].replace('method', min(unused), 1)} is for method={min(unused)}, "
            "which is not among the runs."
        )
    state = [f"{k}={said[k]}" for k in ("resume", "overwrite") if k in said]
    runs: list[Run] = []
    folder: Path | None = None
    for values in itertools.product(*swept.values()):
        choices = dict(zip(swept, values, strict=True))
        mine = own.get(choices.get("method", methods_run[0]), [])
        run_overrides = [*fixed, *(f"{k}={v}" for k, v in choices.items()), *mine]
        settings, _ = read_settings(run_overrides)
        if folder is None:
            default = default_run_dir("compare", settings.data.name)
            folder = user_path(said.get("run_dir", default))
        runs.append(Run(choices, run_overrides, folder / _name(choices)))
    if len({item.path for item in runs}) < len(runs):
        raise ConfigError("Two of the runs would be the same; give each value once.")
    checked, _ = read_settings([*runs[0].overrides, *state, f"run_dir={folder}"])
    return runs, checked


def summarize(runs: Sequence[Run]) -> dict[str, Any]:
    """Metrics of each run at its last epoch, and mean and deviation over the seeds of each row."""
    rows: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    entries = []
    for item in runs:
        results = read_results(item.path / RESULTS)
        rows.setdefault(item.row, []).append(results)
        kept = {"choices": item.choices, "seed": results["seed"], "metrics": results["metrics"]}
        kept["knn"] = metric_label("knn_top1", results).replace("knn_top1", _METRICS["knn_top1"])
        kept["before"] = before_training(results["config"])
        entries.append({**kept, "wall_seconds": results["wall_seconds"]})
    keys = [k for k in runs[0].choices if k != "seed"]
    table = []
    for row, all_results in rows.items():
        values: dict[str, Any] = {}
        for metric in (*_METRICS, *(f"untrained_{m}" for m in _METRICS)):
            measured = [r["metrics"][metric] for r in all_results if metric in r["metrics"]]
            if measured:
                values[metric] = _mean_and_deviation(measured)
        seconds = _mean_and_deviation([r["wall_seconds"] for r in all_results])
        table.append(
            {
                "choices": dict(zip(keys, row, strict=True)),
                "seeds": [r["seed"] for r in all_results],
                "metrics": values,
                "wall_seconds": seconds,
            }
        )
    return {"table": table, "runs": entries}


def table_text(report: Mapping[str, Any]) -> str:
    """Markdown table of a comparison."""
    table = report["table"]
    keys = list(table[0]["choices"])
    labels = sorted({entry["knn"] for entry in report["runs"]})
    heads = {**_METRICS, "knn_top1": " or ".join(labels)}
    if not any(_WHITENED in row["metrics"] for row in table):
        del heads[_WHITENED]
    lines = [
        markdown_row([*keys, "seeds", *heads.values(), "seconds"]),
        "|" + "---|" * (len(keys) + len(heads) + 2),
    ]
    untrained = table[0]["metrics"]
    if any(f"untrained_{m}" in untrained for m in heads):
        cells = [_percent(untrained.get(f"untrained_{m}")) for m in heads]
        before = report["runs"][0].get("before", "untrained")
        lines.append(markdown_row([before, *[""] * len(keys), *cells, ""]))
    for row in table:
        cells = [*row["choices"].values(), ", ".join(map(str, row["seeds"]))]
        cells += [_percent(row["metrics"].get(metric)) for metric in heads]
        lines.append(markdown_row([*cells, format(row["wall_seconds"]["mean"], ".0f")]))
    note = "Last epoch on the validation split; mean ± standard deviation over the seeds."
    return "\n".join([*lines, "", note])


def _values(override: str) -> tuple[str, list[str]]:
    """An override's key, and the values between its commas."""
    key, _, value = override.partition("=")
    if "," not in value or (key in _PATHS and not value.startswith("choice(")):
        return key, [value]
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return key, [value]  # whatever reads it will say what is wrong
    if not parsed.is_sweep_override():
        return key, [value]
    if key in _PATHS:  # read as they stand, so without quotes
        values = parsed.sweep_iterator(transformer=Transformer.identity)
        return key, [getattr(v, "text", str(v)) for v in values]
    return key, [str(v) for v in parsed.sweep_string_iterator()]


def _name(choices: Mapping[str, str]) -> str:
    parts = [v if k == "method" else f"{k.rpartition('.')[2]}{v}" for k, v in choices.items()]
    return "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in p) for p in parts)


def _mean_and_deviation(values: Sequence[float]) -> dict[str, float | None]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation}


def _percent(value: Mapping[str, float | None] | None) -> str:
    if value is None or value["mean"] is None:
        return "-"
    deviation = "" if value["std"] is None else f" ± {100 * value['std']:.1f}"
    return f"{100 * value['mean']:.1f}{deviation}"


def _draw(runs: Sequence[Run], path: Path, plots: Plots) -> None:
    """What the lens read of the first run of each row."""
    first = {", ".join(item.row) or "run": item for item in reversed(runs)}
    readings = {
        label: read_lens(item.path / LENS)
        for label, item in reversed(first.items())
        if (item.path / LENS).is_file()
    }
    if readings:
        plot_lens(readings, path, plots)
