"""The end of a pretraining: weights, report, results, and what is printed of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError, safe_open

from erssl.data import DATASETS
from erssl.errors import RunError
from erssl.methods import MultiViewMethod
from erssl.models import save_backbone
from erssl.models.loading import WEIGHTS_FILE
from erssl.protocols.record import leave_results
from erssl.run.checkpoint_files import Resumed
from erssl.run.children import ONE_OF_SEVERAL
from erssl.run.console import say
from erssl.run.directory import ENVIRONMENT, LAST_CHECKPOINT, RESULTS, RunDirectory
from erssl.run.report import metric_label, write_report
from erssl.run.summary import probe_metrics, read_results
from erssl.settings.pretrain_options import PretrainSettings


def finish(
    settings: PretrainSettings,
    config: Mapping[str, Any],
    method: MultiViewMethod,
    metrics: Mapping[str, float],
    run_dir: RunDirectory,
    wall_seconds: float,
    console: Console,
    doubted: Sequence[str] = (),
) -> dict[str, Any]:
    """Write weights, report and results, results last: they mark the run as finished.

    ``doubted`` holds sentences on why an accuracy may not be what it is taken for.
    """
    data = settings.data
    evaluation = {**config["evaluation"], "knn_k": settings.evaluation.knn_k}  # cut, or as asked
    weights = run_dir.path / WEIGHTS_FILE
    save_backbone(method.backbone, weights, settings.backbone, data.preprocessing)
    results = leave_results(
        run_dir.path / RESULTS,
        report=lambda results: write_report(results, run_dir.path, settings.plots),
        protocol="pretrain",
        dataset=data.name,
        method=settings.method["name"],
        metrics=metrics,
        seed=settings.seed,
        config={**config, "evaluation": evaluation},
        environment=json.loads((run_dir.path / ENVIRONMENT).read_text(encoding="utf-8")),
        wall_seconds=wall_seconds,
        warnings=doubted,
    )
    _print_summary(results, run_dir.path, console)
    return results


def mend_weights(
    settings: PretrainSettings,
    method: MultiViewMethod,
    path: Path,
    last: Resumed | None,
    console: Console,
) -> None:
    """Export the backbone of a finished run again where its file is missing or damaged.

    Args:
        settings: The run.
        method: As it is built before training; gets the weights of the checkpoint.
        path: The run directory.
        last: Its newest readable checkpoint.
        console: Where it is said.

    Raises:
        RunError: If the checkpoint of the last step is not there any more.
    """
    file = path / WEIGHTS_FILE
    try:
        with safe_open(file, "pt") as weights:
            weights.keys()
        return
    except (OSError, SafetensorError):
        if file.is_dir() or last is None or last.path != path / LAST_CHECKPOINT:
            raise RunError(
                f"{file} cannot be read and {path / LAST_CHECKPOINT}, from which it could be "
                "written again, is not whole; put a copy of either back."
            ) from None
    state = torch.load(last.path, map_location="cpu", weights_only=True)["state_dict"]
    method.load_state_dict(state, assign=True)
    save_backbone(method.backbone, file, settings.backbone, settings.data.preprocessing)
    say(console, f"{file} was missing or damaged; it is written again from {LAST_CHECKPOINT}.")


def show_finished(path: Path, console: Console) -> dict[str, Any]:
    """Print and give the results of a run that came to its end.

    Raises:
        RunError: If they cannot be read.
    """
    try:
        results = read_results(path / RESULTS)
        console.print("The run is finished; there is nothing left to resume.")
        _print_summary(results, path, console)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise RunError(
            f"{path / RESULTS} is not what a run writes; delete that file alone, and "
            "resume=true measures the run again."
        ) from error
    return results


def _print_summary(results: Mapping[str, Any], path: Path, console: Console) -> None:
    metrics = results["metrics"]
    probes = probe_metrics(results)
    if "knn_top1" in metrics:
        knn = metric_label("knn_top1", results).replace("knn_top1", "kNN top-1")
        shown = {"knn": knn, "knn_whitened": "whitened", "linear": "linear top-1"}
        if "knn_whitened_top1" not in metrics:
            del shown["knn_whitened"]
        table = Table("backbone", *shown.values(), box=None, pad_edge=False)
        first = "before" if results["config"].get("checkpoint") else "untrained"
        for label, prefix in ((first, "untrained_"), (f"{results['method']}", "")):
            values = [metrics.get(f"{prefix}{protocol}_top1") for protocol in shown]
            table.add_row(label, *("-" if v is None else f"{v:.1%}" for v in values))
        console.print(table)
        for sentence in results.get("warnings", ()):
            say(console, f"Warning: {sentence}", style="yellow")
    elif not probes:
        console.print("There are no labelled validation images, so no accuracy was measured.")
    if probes:
        knn = metric_label("knn_top1", results).replace("knn_top1", "kNN top-1")
        table = Table("further images", knn, box=None, pad_edge=False)
        for metric, name in probes.items():
            table.add_row(name, f"{metrics[metric]:.1%}")
        console.print(table)
    say(console, f"\nRun directory: {path} ({results['wall_seconds']:.0f} s)")
    if os.environ.get(ONE_OF_SEVERAL):
        return  # what is next is for the study or the comparison to say
    use = f'use the backbone with erssl.load_backbone("{path}")'
    say(console, f"Next: see {path}/report.md; {use}.")
    dataset = DATASETS.get(str(results["dataset"]))
    if dataset is not None and dataset.next_step:
        say(console, dataset.next_step)
