"""How long does linear evaluation on cached features take beside lightly's and scikit-learn's?

    python -m benchmarks.linear

50,000 training and 10,000 validation features of 512 dimensions and 10 classes, Gaussian clouds
that overlap. Ours and lightly's train the same linear layer for 5 epochs by lightly's protocol (SGD
0.1, momentum 0.9, batch 256, cosine by the step), and classify the validation features after every
epoch: ours by ``train_linear``, lightly's ``LinearClassifier`` by Lightning's Trainer on the same
features, with no backbone before them. scikit-learn's ``LogisticRegression`` finds the optimum of
the same loss with its default penalty. Each contender runs in processes of its own by turns; what
is imported and drawn before is not timed. The floor is the arithmetic of the epochs, at the rate of
a matrix product of their shape, and each epoch's features read once. Writes
``benchmarks/results/linear.json`` (``_cuda`` of a GPU).
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks._timing import copy_rate, device, product_rate, result_file
from erssl.evaluation import Features
from erssl.files import write_json
from erssl.run.directory import environment

N, HELD_OUT, DIM, CLASSES, SPREAD = 50_000, 10_000, 512, 10, 0.1
EPOCHS, BATCH, REPEATS = 5, 256, 3
DEVICE = device()


def main(options: argparse.Namespace) -> None:
    rounds = [{name: in_own_process(name) for name in CONTENDERS} for _ in range(options.n)]
    rows = [
        {
            "contender": name,
            "seconds": [done[name]["seconds"] for done in rounds],
            "cpu_seconds": [done[name]["cpu_seconds"] for done in rounds],
            "top1": rounds[0][name]["top1"],
        }
        for name in CONTENDERS
    ]
    floor = floor_seconds()
    report = {
        "command": "python -m benchmarks.linear",
        "setting": {
            "n": N,
            "held_out": HELD_OUT,
            "dim": DIM,
            "classes": CLASSES,
            "spread": SPREAD,
            "epochs": EPOCHS,
            "batch": BATCH,
            "seed": 0,
            "device": DEVICE.type,
        },
        "threads": torch.get_num_threads(),
        "repeats": options.n,
        "floor_seconds": floor,
        "rows": rows,
        "environment": environment(DEVICE),
    }
    report["environment"]["command"] = report["command"]
    if not options.dry:
        write_json(result_file("linear"), report)
    print(f"{table(rows)}\n\nfloor: {floor:.2f} s")


def in_own_process(name: str) -> dict[str, float]:
    """What :func:`measure` gives in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.linear", "--contender", name]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured: dict[str, float] = json.loads(answer.splitlines()[-1])
    return measured


def erssl(train: Features, val: Features) -> float:
    """Ours, by the preset of lightly's protocol."""
    from erssl.evaluation.classifier import ClassifierOptions
    from erssl.evaluation.linear_on_features import train_linear

    options = ClassifierOptions(
        epochs=EPOCHS,
        batch_size=BATCH,
        optimizer="sgd",
        schedule="step",
        final_lr=0.001,
        head_init="torch",
    )
    return train_linear(train, val, CLASSES, options, device=DEVICE).history[-1]["top1"]


def lightly(train: Features, val: Features) -> float:
    """lightly's module and Lightning's loop."""
    from lightly.utils.benchmarking import LinearClassifier
    from pytorch_lightning import Trainer

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    module = LinearClassifier(nn.Identity(), BATCH, feature_dim=DIM, num_classes=CLASSES)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator=DEVICE.type,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(
        module,
        DataLoader(TensorDataset(*train), batch_size=BATCH, shuffle=True),
        DataLoader(TensorDataset(*val), batch_size=BATCH),
    )
    return float(trainer.callback_metrics["val_top1"])


def scikit_learn(train: Features, val: Features) -> float:
    """L-BFGS to its default tolerance."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000).fit(train.features.numpy(), train.labels.numpy())
    return float(model.score(val.features.numpy(), val.labels.numpy()))


CONTENDERS: dict[str, Callable[[Features, Features], float]] = {
    "erssl": erssl,
    "lightly": lightly,
    "scikit-learn": scikit_learn,
}


def measure(name: str) -> dict[str, float]:
    """Time and accuracy of one contender in this process."""
    torch.manual_seed(0)
    centres = torch.randn(CLASSES, DIM)
    train, val = (clouds(n, centres) for n in (N, HELD_OUT))
    few = [Features(f.features[:BATCH], f.labels[:BATCH]) for f in (train, val)]
    CONTENDERS[name](*few)  # imports and whatever is set up once
    start, cpu = time.perf_counter(), time.process_time()
    top1 = CONTENDERS[name](train, val)
    spent = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": spent[0], "cpu_seconds": spent[1], "top1": top1}


def clouds(n: int, centres: Tensor) -> Features:
    """Noise of deviation 1 around the classes' centres, of ``SPREAD``."""
    labels = torch.randint(len(centres), (n,))
    return Features(SPREAD * centres[labels] + torch.randn(n, centres.shape[1]), labels)


def floor_seconds() -> float:
    """The arithmetic of all epochs at the rate of a large product, or the features' bytes.

    Forward and weight gradient of every training row, forward of every held-out one; features are
    read once for each of them.
    """
    passes = EPOCHS * (2 * N + HELD_OUT)
    arithmetic = 2 * passes * DIM * CLASSES / product_rate(1536, 1536, 1536)
    return max(arithmetic, 4 * passes * DIM / copy_rate())


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of times, their ratio and accuracies."""
    own = median(rows[0]["seconds"])
    lines = ["| contender | median s | ours by it | CPU s | top-1 |", "|---|---|---|---|---|"]
    for row in rows:
        seconds = median(row["seconds"])
        lines.append(
            f"| {row['contender']} | {seconds:.2f} | {own / seconds:.3f} | "
            f"{median(row['cpu_seconds']):.2f} | {row['top1']:.4f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=REPEATS, help="processes of each contender")
    parser.add_argument("--dry", action="store_true", help="write no results")
    parser.add_argument("--contender", choices=list(CONTENDERS))
    options = parser.parse_args()
    if options.contender is None:
        main(options)
    else:
        print(json.dumps(measure(options.contender)))
