"""What the training benchmarks share: a part of CIFAR-10, and runs by the ``erssl`` command."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from erssl.entropy import sphere_log_area
from erssl.recipes import read_recipe
from erssl.run.directory import LENS, read_lens, read_metrics

RESULTS = Path(__file__).parent / "results"
DIM = 256  # of the projections
COMMON = (
    "data=imagefolder",
    "data.image_size=32",
    "data.views.recipe=cifar",
    "data.verify=false",
    "backbone=resnet10_small",
    "channels_last=true",
    "optimizer=sgd",
    "method.projection_hidden_dim=512",
    f"method.projection_dim={DIM}",
    "evaluation.knn_k=200",
    "trainer.log_every_n_steps=10",
)


def as_before(method: str) -> tuple[str, ...]:
    """The method, with the options that it had when the stored runs were made (its ``earlier``).

    With them a benchmark makes those runs again, and a new one may stand beside them.
    """
    earlier = read_recipe(method).file.earlier
    return (
        f"method={method}",
        *(f"method.{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in earlier.items()),
    )


def link_subset(source: Path, target: Path, per_class: int) -> Path:
    """The first images of each class, as links."""
    for folder in sorted(source.iterdir()):
        (target / folder.name).mkdir(parents=True)
        for image in sorted(folder.iterdir())[:per_class]:
            os.symlink(image.resolve(), target / folder.name / image.name)
    return target


def pretrain(
    overrides: list[str], paths: list[str], run_dir: Path, threads: int = 0, before: str = ""
) -> None:
    """``erssl pretrain`` in a process of its own.

    On ``threads`` threads, or as many as suit it; where there is code to run ``before``, after it.
    """
    variables = dict(os.environ)
    if threads:
        variables["OMP_NUM_THREADS"] = str(threads)
    start = f"{before}; from erssl.cli.main import main; raise SystemExit(main())"
    how = ["-c", start] if before else ["-m", "erssl.cli.main"]
    command = [sys.executable, *how, "pretrain", *overrides, *paths]
    subprocess.run([*command, f"run_dir={run_dir}"], check=True, env=variables)


SMOOTHED = "entropy smoothed by κ = 10,\nnats below uniform"


def drawn(run: dict[str, Any], metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of a curve; an entropy less that of the uniform density."""
    steps, values = zip(*run["curves"][metric], strict=True)
    ceiling = sphere_log_area(DIM) if metric == "train_entropy" else 0.0
    return list(steps), [value - ceiling for value in values]


# Okabe and Ito's colours, which the colour-blind tell apart
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "black", "grey")


def plot_curves(
    runs: dict[str, Any], panels: dict[str, str], path: Path, dotted: tuple[str, ...] = ()
) -> None:
    """Curves over steps, a panel a metric; a colour a setting, later seeds dashed.

    Args:
        runs: Runs by name; what follows `` seed `` in it is the seed.
        panels: Title of each metric.
        path: The figure.
        dotted: Names of runs whose lines are dotted.
    """
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(name.partition(" seed ")[0] for name in runs))
    colors = dict(zip(settings, itertools.cycle(PALETTE), strict=False))
    figure = Figure(figsize=(1 + 3.2 * len(panels), 3.3), dpi=110, layout="constrained")
    for place, (metric, label) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), place)
        for name, run in runs.items():
            steps, values = drawn(run, metric)
            setting, _, seed = name.partition(" seed ")
            style = ":" if name in dotted else "-" if seed in ("", "0") else "--"
            axes.plot(steps, values, style, color=colors[setting], linewidth=1.4, label=name)
        axes.set(title=label, xlabel="step")
        axes.grid(alpha=0.25)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    figure.savefig(path)


def summary(run_dir: Path, overrides: list[str]) -> dict[str, Any]:
    """Curves and results of a run, without what names this machine's folders."""
    results = json.loads((run_dir / "results.json").read_text())
    curves = read_metrics(run_dir / "metrics.csv")
    kept = (
        "train_loss",
        "train_nats_below_uniform",
        "train_entropy",
        "train_alignment",
        "val_knn_top1",
    )
    environment = {k: v for k, v in results["environment"].items() if k != "command"}
    lens = read_lens(run_dir / LENS) if (run_dir / LENS).is_file() else []
    return {
        "command": f"erssl pretrain {' '.join(overrides)}",
        "metrics": results["metrics"],
        "curves": {name: curves[name] for name in kept if name in curves},
        "lens": [{k: float(f"{v:.6g}") for k, v in row.items()} for row in lens],
        "seed": results["seed"],
        "environment": environment,
        "wall_seconds": results["wall_seconds"],
    }
