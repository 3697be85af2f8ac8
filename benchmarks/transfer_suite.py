"""The transfer suite from one command: untrained and pretrained, linear and fine-tuned, and killed.

    python -m benchmarks.transfer_suite <folder of parts of the data sets> <CIFAR-10 as images>

The parts are too small, and 32 pixels too few, for a published number: what is checked is that the
whole suite runs on the original layouts, and goes on after ``kill -9`` without doing anything
twice. Writes ``benchmarks/results/transfer_suite.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._runs import RESULTS, link_subset, pretrain, summary
from benchmarks.cifar_evaluation import PRETRAIN
from erssl.downstream.transfer.table import TRANSFER_DATASETS
from erssl.files import write_json
from erssl.run.directory import environment

DATASETS = ("caltech101", "cars", "cifar10", "cifar100", "dtd", "food", "pets", "sun397", "voc2007")
COMMON = (f"datasets=[{','.join(DATASETS)}]", "partial_ok=true", "num_workers=1")
MODES = {
    "linear": ("mode=linear", "seeds=2"),
    "finetune": (
        "mode=finetune",
        "steps=20",
        "batch_size=32",
        "learning_rates=[0.003,0.03,0.3]",
        "weight_decays=[0.0001]",
    ),
}
ROWS = ("pretrained", "untrained")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="where runs are kept; what is there is used")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    folder = arguments.folder or Path(tempfile.mkdtemp())
    run_dir, overrides = folder / "run", [*PRETRAIN, f"epochs={arguments.epochs}"]
    if not (run_dir / "results.json").is_file():
        train = link_subset(arguments.images / "train", folder / "train", 1000)
        test = link_subset(arguments.images / "test", folder / "test", 200)
        pretrain(overrides, [f"data.train_dir={train}", f"data.val_dir={test}"], run_dir)
    data_root = gather(arguments.parts, folder / "data")
    report: dict[str, Any] = {
        "command": "python -m benchmarks.transfer_suite <parts> <CIFAR-10 images>",
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "pretraining": summary(run_dir, overrides),
        "suites": {},
    }
    for mode, own in MODES.items():
        for row in ROWS:
            checkpoint = run_dir if row == "pretrained" else f"random:{run_dir}"
            suite = Suite(folder / f"{mode}-{row}", [f"checkpoint={checkpoint}", *COMMON, *own])
            began = time.perf_counter()
            suite.run(data_root)
            said = f"erssl transfer checkpoint=<{row}> {' '.join((*COMMON, *own))}"
            seconds = time.perf_counter() - began
            entry = {"command": said, "wall_seconds": seconds, "data_sets": suite.results()}
            report["suites"][f"{row}, {mode}"] = entry
            write_json(RESULTS / "transfer_suite.json", report)
        report.setdefault("killed", {})[mode] = killed(
            folder, data_root, mode, [f"checkpoint={run_dir}", *COMMON, *own]
        )
        write_json(RESULTS / "transfer_suite.json", report)
    print(table(report))


def gather(parts: Path, target: Path) -> Path:
    """All data sets below one folder, as links; the images of VOC's may be kept as link texts."""
    if target.exists():
        return target
    target.mkdir(parents=True)
    for place in parts.iterdir():
        if place.is_dir() and place.name != "voc_layout_from_coco":
            (target / place.name).symlink_to(place.resolve())
    source = parts / "voc_layout_from_coco" / "VOCdevkit" / "VOC2007"
    copied = target / "voc" / "VOCdevkit" / "VOC2007"
    (copied / "JPEGImages").mkdir(parents=True)
    for name in ("Annotations", "ImageSets"):
        (copied / name).symlink_to((source / name).resolve())
    for file in (source / "JPEGImages").iterdir():
        start = file.read_bytes()[:200]
        place = file.parent / start.decode() if start.startswith(b"..") else file
        (copied / "JPEGImages" / file.name).symlink_to(place.resolve())
    return target


class Suite:
    """One run of the command.

    Attributes:
        folder: Its run directory.
        overrides: What it is asked for.
    """

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        """Not started yet."""
        self.folder, self.overrides = folder, overrides

    def start(self, data_root: Path, resume: bool = False) -> subprocess.Popen[bytes]:
        """A process of its own, with a feature cache of its own."""
        command = [sys.executable, "-m", "erssl.cli.main", "transfer", *self.overrides]
        state = "resume=true" if resume else "overwrite=true"
        own = [f"run_dir={self.folder}", f"data_root={data_root}", state]
        variables = dict(os.environ) | {"ERSSL_HOME": str(self.folder / "home")}
        return subprocess.Popen([*command, *own], env=variables, start_new_session=True)

    def run(self, data_root: Path, resume: bool = False) -> None:
        """Start it and wait for its end."""
        if self.start(data_root, resume).wait():
            raise SystemExit(f"the suite in {self.folder.name} failed")

    def files(self) -> dict[str, int]:
        """What it has finished, and when: data sets, and points of grids."""
        entries = [
            *self.folder.glob("seed*/*/results.json"),
            *self.folder.glob("seed*/*/point*.json"),
        ]
        return {str(p.relative_to(self.folder)): p.stat().st_mtime_ns for p in entries}

    def results(self) -> list[dict[str, Any]]:
        """The result of each data set and seed, without what names this machine's folders."""
        entries = []
        for file in sorted(self.folder.glob("seed*/*/results.json")):
            result = json.loads(file.read_text())
            config = result["config"]
            kept = ("counts", "complete", "notes", "splits", "penalty", "val_metric", "grid")
            entries.append(
                {
                    "dataset": result["dataset"],
                    "seed": result["seed"],
                    "metric": TRANSFER_DATASETS[result["dataset"]].metric,
                    "metrics": {k: v for k, v in result["metrics"].items() if "/" not in k},
                    **{key: config[key] for key in kept if key in config},
                    "penalties_converged": _converged(config),
                    "wall_seconds": result["wall_seconds"],
                }
            )
        return entries


def killed(folder: Path, data_root: Path, mode: str, overrides: list[str]) -> dict[str, Any]:
    """Kill the suite three times on its way, go on each time, and compare with the one left alone.

    Returns:
        How much was finished at each kill, what of that was computed again (nothing, if all is
        well), and whether the results are the same.
    """
    suite = Suite(folder / f"{mode}-killed", overrides)
    whole = Suite(folder / f"{mode}-pretrained", overrides)
    count = len(whole.files())
    shutil.rmtree(suite.folder, ignore_errors=True)
    kills, again = [], []
    for share in (0.2, 0.5, 0.8):
        before = suite.files()
        process = suite.start(data_root, resume=bool(kills))
        while len(suite.files()) < share * count and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = suite.files()
        again += [name for name, moment in before.items() if now[name] != moment]
        kills.append(len(now))
    before = suite.files()
    suite.run(data_root, resume=True)
    again += [name for name, moment in before.items() if suite.files()[name] != moment]
    return {
        "kills_after": kills,
        "of": count,
        "computed_again": again,
        "same_results": [_numbers(r) for r in suite.results()]
        == [_numbers(r) for r in whole.results()],
    }


def table(report: dict[str, Any]) -> str:
    """Markdown table, a row for each suite; the mean over seeds, in per cent."""
    lines = [f"| | {' | '.join(DATASETS)} |", "|---|" + "---|" * len(DATASETS)]
    for name, suite in report["suites"].items():
        cells = []
        for dataset in DATASETS:
            entries = [r for r in suite["data_sets"] if r["dataset"] == dataset]
            values = [100 * r["metrics"][r["metric"]] for r in entries]
            cells.append(f"{sum(values) / len(values):.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _converged(config: dict[str, Any]) -> str | None:
    path = config.get("path")
    return None if path is None else f"{sum(p['converged'] for p in path)} of {len(path)}"


def _numbers(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "wall_seconds"}


if __name__ == "__main__":
    main()
