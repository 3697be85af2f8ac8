"""What does an evaluation of ImageNet's size take of memory and time, with features on disk?

    python -m benchmarks.large_evaluation [--rows 1281167] [--held 131072] [--queries 1024]
        [--iterations 10] [--only knn linear path] [--folder DIR]

Made features of 2,048 dimensions and 1,000 classes, Gaussian clouds behind a ReLU, so close that
kNN classifies less than a third of them right (``top1``). Features on disk are float16 shards as
``erssl knn|linear|transfer features_storage=disk`` keeps them, 5.2 GB for 1,281,167 rows; those in
memory are float32 and not rounded. Each measurement runs in a process of its own:

- ``knn``: votes of the k = 200 nearest of all rows, for ``--queries`` rows (a query costs the same
  whatever their number, from 1,024 on; ImageNet's validation images are 49 times as many).
- ``linear``: one epoch of the layer of ``erssl linear mode=cached``, batches of 4,096.
- ``path``: two penalties of ``--iterations`` steps each by the solver of ``erssl transfer``.

Each is run in memory and on disk on the first ``--held`` rows, by turns, and on disk on all rows.
Told are the peak of anonymous memory (RssAnon and RssShmem, every 10 ms, with what Python and torch
take themselves), the time a row, the ratio of disk to memory on the same rows and of all rows on
disk to those held, and the share of equal predictions. Ratios are of processor seconds, since
another program may use the same cores; ``wall`` is beside them. Writes
``benchmarks/results/large_evaluation.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from benchmarks._runs import RESULTS
from benchmarks._timing import in_own_process
from erssl.downstream.transfer.logistic import logistic_fits
from erssl.evaluation import AnyFeatures, Features, StoredFeatures, StoredRows, knn_scores
from erssl.evaluation.classifier import ClassifierOptions
from erssl.evaluation.linear_on_features import train_linear
from erssl.files import write_json
from erssl.run.directory import environment

DIM, CLASSES, SHARD, ASKED = 2048, 1000, 4096, 4096
SPREAD = 0.15  # of the centres, beside noise of deviation 1
PENALTIES = (10.0, 5.0)
PROTOCOLS = ("knn", "linear", "path")


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        began = time.perf_counter()
        for number in range(-(-options.rows // SHARD)):
            features, labels = made(number)
            _write(folder / f"{number:05d}.safetensors", features.half(), labels)
        print(f"{options.rows} rows written in {time.perf_counter() - began:.0f} s", flush=True)
        report: dict[str, Any] = {
            "command": "python -m benchmarks.large_evaluation "
            f"--rows {options.rows} --held {options.held} --queries {options.queries} "
            f"--iterations {options.iterations}",
            "setting": {"dim": DIM, "classes": CLASSES, "penalties": PENALTIES, "k": 200},
            "threads": torch.get_num_threads(),
            "protocols": {},
            "environment": environment(),
        }
        report["environment"]["command"] = report["command"]  # without folders of this machine
        out = RESULTS / "large_evaluation.json"
        before = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
        if before.get("command") == report["command"]:  # those that are not asked for now
            report["protocols"] |= before["protocols"]
        for protocol in options.only:
            report["protocols"][protocol] = compare(protocol, folder, options)
            print(json.dumps({protocol: report["protocols"][protocol]}, indent=2), flush=True)
            write_json(out, report)


def compare(protocol: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One protocol in memory and on disk on the same rows, then on disk on all."""
    turns = [("memory", options.held), ("disk", options.held), ("disk", options.rows)]
    runs = {}
    for storage, rows in turns:
        extra = ["--storage", storage, "--rows", rows, "--folder", folder]
        extra += ["--queries", options.queries, "--iterations", options.iterations]
        printed = in_own_process("benchmarks.large_evaluation", "--child", protocol, *extra)
        runs[storage, rows] = json.loads(printed.splitlines()[-1])
    memory, same, whole = (runs[turn] for turn in turns)
    predicted = [torch.tensor(run.pop("predicted")) for run in (memory, same)]
    whole.pop("predicted", None)
    costs = [run["cpu_seconds"] / run["rows"] for run in (memory, same, whole)]
    return {
        "memory": memory,
        "disk": same,
        "disk_whole": whole,
        "disk_to_memory_cpu": costs[1] / costs[0],
        "whole_to_memory_cpu_per_row": costs[2] / costs[0],
        "same_predictions": float((predicted[0] == predicted[1]).double().mean()),
        "peak_anonymous_gib_whole": whole["peak_anonymous_bytes"] / 2**30,
    }


def child(protocol: str, storage: str, options: argparse.Namespace) -> dict[str, Any]:
    """Costs and predictions of one protocol in this process."""
    train = stored(options.folder, options.rows) if storage == "disk" else held(options.rows)
    asked = made(-1)
    if storage == "disk":  # as validation features are
        half = StoredRows([asked.features.half()])
        val: AnyFeatures = StoredFeatures(half, asked.labels)
    else:
        val = asked
    work = {"knn": _knn, "linear": _linear, "path": _path}[protocol]
    with anonymous_peak() as peak:
        wall, cpu = time.perf_counter(), time.process_time()
        predicted = work(train, val, options)
        spent = time.perf_counter() - wall, time.process_time() - cpu
    right = predicted == asked.labels[: len(predicted)]
    return {
        "rows": options.rows,
        "seconds": spent[0],
        "cpu_seconds": spent[1],
        "peak_anonymous_bytes": peak(),
        "top1": float(right.double().mean()),
        "predicted": predicted.tolist(),
    }


def _knn(train: AnyFeatures, val: AnyFeatures, options: argparse.Namespace) -> Tensor:
    rows, labels = val
    count = options.queries
    if isinstance(rows, StoredRows):
        few: AnyFeatures = StoredFeatures(rows.select(torch.arange(count)), labels[:count])
    else:
        few = Features(rows[:count], labels[:count])
    return knn_scores(train, few, CLASSES, 200, 0.1).argmax(dim=1)


def _linear(train: AnyFeatures, val: AnyFeatures, _: argparse.Namespace) -> Tensor:
    return train_linear(train, val, CLASSES, ClassifierOptions(epochs=1)).scores.argmax(dim=1)


def _path(train: AnyFeatures, val: AnyFeatures, options: argparse.Namespace) -> Tensor:
    limits: dict[str, Any] = {"tolerance": 1e-6, "max_iter": options.iterations}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few steps do not converge
        fits = list(logistic_fits(*train, CLASSES, PENALTIES, **limits))
    return fits[-1].scores(val.features).argmax(dim=1)


def made(number: int) -> Features:
    """The features of one shard, the same each time; number -1 is what is classified."""
    centres = SPREAD * torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(100 + number)
    count = ASKED if number < 0 else SHARD
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return Features(
        torch.randn(count, DIM, generator=generator).add_(centres[labels]).relu_(), labels
    )


def held(rows: int) -> Features:
    """The first rows, float32, in memory."""
    features, labels = torch.empty(rows, DIM), torch.empty(rows, dtype=torch.int64)
    for start in range(0, rows, SHARD):
        shard = made(start // SHARD)
        stop = min(start + SHARD, rows)
        features[start:stop], labels[start:stop] = (part[: stop - start] for part in shard)
    return Features(features, labels)


def stored(folder: Path, rows: int) -> StoredFeatures:
    """The first rows, float16, mapped from files."""
    shards, labels = [], []
    for start in range(0, rows, SHARD):
        with safe_open(folder / f"{start // SHARD:05d}.safetensors", framework="pt") as file:
            count = min(SHARD, rows - start)
            shards.append(file.get_tensor("features")[:count])
            labels.append(file.get_tensor("labels")[:count].clone())
    return StoredFeatures(StoredRows(shards, folder=folder), torch.cat(labels))


@contextmanager
def anonymous_peak() -> Iterator[Callable[[], int]]:
    """Give a function that tells the largest anonymous memory of this process inside."""
    peak, done = [_anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak.append(max(peak.pop(), _anonymous()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: peak[0]
    finally:
        done.set()
        watcher.join()


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    told = dict(line.split(":", 1) for line in lines)
    return sum(int(told[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def _write(path: Path, features: Tensor, labels: Tensor) -> None:
    path.write_bytes(save({"features": features, "labels": labels}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--held", type=int, default=131_072)
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--child", choices=PROTOCOLS)
    parser.add_argument("--storage", choices=("memory", "disk"))
    arguments = parser.parse_args()
    if arguments.child is None:
        main(arguments)
    else:
        print(json.dumps(child(arguments.child, arguments.storage, arguments)))
