"""The ER paper's Fig. 2 in small, the drops of its Table 2, and what leave-one-out is worth.

    python -m benchmarks.er_figure <folder with train/ and test/ of CIFAR-10 as images> [--jobs 2]

Every run is ``erssl pretrain`` with one backbone, view recipe, schedule and seed; the learning
rate is scaled by the batch. What the lens read of each is kept. Writes
``benchmarks/results/er_figure.json`` after every run, so that it may be interrupted and called
again, and ``er_figure.png``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks._runs import COMMON, RESULTS, as_before, link_subset, pretrain, summary
from erssl.files import write_json

FILE, IMAGE = RESULTS / "er_figure.json", RESULTS / "er_figure.png"
LARGE, SMALL = 256, 32
# A narrow bottleneck and a higher rate: wide and slow, the outputs hardly leave the uniform
# distribution in so few steps.
DINO = (
    "method.num_prototypes=1024",
    "method.projection_dim=64",
    "optimizer.base_lr=0.3",
    "method.freeze_prototypes_epochs=0",
    "method.momentum_start=0.99",
)
NETWORK = {
    "simclr": (*as_before("simclr"), "method.temperature=0.2"),
    "simclr_er": as_before("simclr_er"),
    "byol": (
        *as_before("byol"),
        "method.prediction_hidden_dim=512",
        "method.momentum_start=0.99",
    ),
    "byol_er": (
        *as_before("byol_er"),
        "method.prediction_hidden_dim=512",
        "method.momentum_start=0.99",
    ),
    "dino": (*as_before("dino"), *DINO),
    "dino_er": (*as_before("dino_er"), *DINO),
}
EMA = ("method.momentum_start=0.8", "method.momentum_end=0.8")
QUEUE = "method.memory_bank_size=[4096,256]"
RUNS: dict[str, tuple[str, ...]] = {
    f"{name} batch {batch}": (*overrides, f"batch_size={batch}")
    for name, overrides in NETWORK.items()
    for batch in (LARGE, SMALL)
}
for _name in ("dino", "dino_er"):
    RUNS[f"{_name} no centre batch {LARGE}"] = (
        *RUNS[f"{_name} batch {LARGE}"],
        "method.center=false",
    )
for _name in ("byol", "byol_er", "dino", "dino_er"):
    RUNS[f"{_name} EMA 0.8 batch {LARGE}"] = (*RUNS[f"{_name} batch {LARGE}"], *EMA)
for _seed in (0, 1):
    for _entropy, _overrides in {
        "self term": ("method.leave_one_out=false",),
        "leave-one-out": ("method.leave_one_out=true",),
        "self term, queue 4096": ("method.leave_one_out=false", QUEUE),
        "leave-one-out, queue 4096": ("method.leave_one_out=true", QUEUE),
    }.items():
        RUNS[f"simclr_er {_entropy} batch 64 seed {_seed}"] = (
            *as_before("simclr_er"),
            "batch_size=64",
            f"seed={_seed}",
            *_overrides,
        )
RUNS["byol_er H of the prediction batch 256"] = (
    *RUNS[f"byol_er batch {LARGE}"],
    "method.entropy_of=prediction",
)
CLUSTERS = ("batch_size=256", "method.num_prototypes=300")
SWAV = (*CLUSTERS, "method.projection_dim=64", "optimizer.base_lr=0.3")
KMEANS = (*CLUSTERS, "method.projection_dim=64", "method.memory_bank_size=6144")
RUNS |= {
    "swav": (*as_before("swav"), *SWAV, "method.freeze_prototypes_epochs=0"),
    "swav without Sinkhorn": (
        *as_before("swav"),
        *SWAV,
        "method.freeze_prototypes_epochs=0",
        "method.sinkhorn_iterations=0",
    ),
    "swav_er": (*as_before("swav_er"), *SWAV),
    "deepclusterv2": (*as_before("deepclusterv2"), *KMEANS),
    "deepcluster_er": (*as_before("deepcluster_er"), *KMEANS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--train-per-class", type=int, default=600)
    parser.add_argument("--test-per-class", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--only", nargs="*", default=list(RUNS))
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    report = json.loads(FILE.read_text()) if FILE.exists() else {"runs": {}}
    report["setting"] = (
        f"{arguments.train_per_class} training and {arguments.test_per_class} test images a "
        f"class, {arguments.epochs} epochs; common settings: {' '.join(COMMON)}"
    )
    lock = threading.Lock()
    with tempfile.TemporaryDirectory() as folder:
        train, test = (
            link_subset(arguments.images / split, Path(folder, split), count)
            for split, count in (
                ("train", arguments.train_per_class),
                ("test", arguments.test_per_class),
            )
        )

        def one(name: str) -> None:
            run_dir = Path(folder, name.replace(" ", "_").replace(",", ""))
            overrides = [*COMMON, "evaluation.every_n_epochs=0", *RUNS[name]]
            overrides += [f"epochs={arguments.epochs}", "data.num_workers=0"]
            pretrain(
                overrides, [f"data.train_dir={train}", f"data.val_dir={test}"], run_dir, threads=1
            )
            with lock:
                run = summary(run_dir, overrides)
                run.pop("curves")  # what the lens read is enough
                report["runs"][name] = run
                order = [*RUNS, *report["runs"]]  # those of earlier versions last
                report["runs"] = {n: report["runs"][n] for n in order if n in report["runs"]}
                write_json(FILE, report)

        todo = [name for name in arguments.only if name not in report["runs"]]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(one, todo))
    plot(report, IMAGE)
    print(table(report))
    print()
    print(drops(report))


def table(report: dict[str, Any]) -> str:
    """Markdown table of what each run ended with, by the lens at κ = 10, against uniform."""
    lines = [
        "| run | kNN | linear | smoothed H | E[log q] | discrete H | discrete E[log q] | "
        "alignment | effective rank |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, run in report["runs"].items():
        metrics, last = run["metrics"], run["lens"][-1]
        if len(lines) == 2:
            knn, linear = metrics["untrained_knn_top1"], metrics["untrained_linear_top1"]
            lines.append(f"| untrained | {knn:.3f} | {linear:.3f} | | | | | | |")
        discrete = [
            f"{last[column]:.2f}" if column in last else ""
            for column in ("discrete_entropy", "discrete_reconstruction")
        ]
        lines.append(
            f"| {name} | {metrics['knn_top1']:.3f} | {metrics['linear_top1']:.3f} | "
            f"{against_uniform(last, 'entropy_k10'):.2f} | "
            f"{against_uniform(last, 'reconstruction_k10'):.2f} | "
            f"{' | '.join(discrete)} | {last['alignment']:.3f} | {last['effective_rank']:.1f} |"
        )
    return "\n".join(lines)


def against_uniform(row: dict[str, float], column: str) -> float:
    """An entropy less that of the uniform density, a log density less its; others as they are."""
    signs = {"entropy_k10": -1, "reconstruction_k10": 1}
    return row[column] + signs.get(column, 0) * row["log_sphere_area"]


def drops(report: dict[str, Any]) -> str:
    """Markdown table of what a small batch and a fast target change, in points."""
    lines = [
        f"| method | kNN, linear at batch {LARGE} | change at batch {SMALL} | change at EMA 0.8 |",
        "|---|---|---|---|",
    ]
    runs = report["runs"]
    for name in NETWORK:
        if f"{name} batch {LARGE}" not in runs:
            continue
        base = runs[f"{name} batch {LARGE}"]["metrics"]
        cells = [f"{100 * base['knn_top1']:.1f}, {100 * base['linear_top1']:.1f}"]
        for other in (f"{name} batch {SMALL}", f"{name} EMA 0.8 batch {LARGE}"):
            metrics = runs.get(other, {}).get("metrics")
            cells.append(
                ", ".join(
                    f"{100 * (metrics[m] - base[m]):+.1f}" for m in ("knn_top1", "linear_top1")
                )
                if metrics
                else ""
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


TITLES = {
    "entropy_k10": "smoothed H, nats below uniform",
    "reconstruction_k10": "E[log q], nats above uniform",
    "discrete_entropy": "discrete H, nats",
    "discrete_reconstruction": "discrete E[log q], nats",
}


def plot(report: dict[str, Any], path: Path) -> None:
    """Entropy and reconstruction over epochs, plain and + ER, at both batch sizes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.2), dpi=110, layout="constrained")
    grid = figure.subplots(2, 4)
    columns = (
        ("SimCLR", ("simclr", "simclr_er"), ("entropy_k10", "reconstruction_k10")),
        ("BYOL", ("byol", "byol_er"), ("entropy_k10", "reconstruction_k10")),
        ("DINO", ("dino", "dino_er"), ("discrete_entropy", "discrete_reconstruction")),
        (
            "DINO without centring",
            ("dino no centre", "dino_er no centre"),
            ("discrete_entropy", "discrete_reconstruction"),
        ),
    )
    for column, (title, (plain, with_er), names) in enumerate(columns):
        for row, name in enumerate(names):
            axes = grid[row][column]
            for method, color, label in ((plain, "#D55E00", "plain"), (with_er, "#0072B2", "+ ER")):
                for batch, style in ((LARGE, "-"), (SMALL, "--")):
                    run = report["runs"].get(f"{method} batch {batch}")
                    if run is None:
                        continue
                    last = run["lens"][-1]
                    share = [r["step"] / max(last["step"], 1) for r in run["lens"]]
                    axes.plot(
                        share,
                        [against_uniform(r, name) for r in run["lens"]],
                        style,
                        color=color,
                        linewidth=1.6,
                        label=f"{label}, batch {batch}",
                    )
                    if row == 0:
                        axes.axhline(
                            last["log_k"] if name == "discrete_entropy" else 0.0,
                            color="#666666",
                            linestyle=":",
                            linewidth=1,
                            label="ceiling (uniform)",
                        )
            axes.set_title(f"{title}\n{TITLES[name]}", fontsize=10)
            axes.set_xlabel("share of the training", fontsize=9)
            axes.tick_params(labelsize=8)
            axes.grid(alpha=0.25)
    handles, labels = grid[0][0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    order = sorted(once, key=lambda label: label.startswith("ceiling"))
    figure.legend(
        [once[label] for label in order], order, loc="outside lower center", ncols=5, fontsize=9
    )
    figure.savefig(path)


if __name__ == "__main__":
    main()
