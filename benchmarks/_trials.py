"""Forked runs of ``erssl pretrain`` and what two of them have in common, for ``reliability``."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_digits

import erssl.protocols.pretrain  # noqa: F401 - imported once, for every process that is forked
from erssl.cli.main import main as erssl_main
from erssl.recipes import read_recipe
from erssl.settings.arguments import overrides_of

COMMON = (
    "backbone=timm",
    "backbone.name=test_resnet",
    "data.image_size=16",
    "batch_size=16",
    "epochs=3",
    "trainer.limit_train_batches=6",
    "trainer.limit_val_batches=1",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "data.num_workers=0",
    "checkpoint_every_n_steps=2",
    "lens.probe_size=16",
    "lens.every_n_steps=4",
    "lens.on_collapse=ignore",
    "optimizer.base_lr=0.1",
    "optimizer.warmup_epochs=0",
    "evaluation.every_n_epochs=0",
    "evaluation.untrained=false",
    "evaluation.linear=false",
)
HEAD = ("method.projection_hidden_dim=32", "method.projection_dim=16")
VIT = (
    "backbone.name=vit_tiny_patch16_224",
    "backbone.options.img_size=16",
    "backbone.options.patch_size=4",
    "backbone.options.embed_dim=32",
    "backbone.options.depth=1",
    "backbone.options.num_heads=2",
    "optimizer=adamw",
    "optimizer.base_lr=0.001",
    "optimizer.warmup_epochs=0",
)
MORE = {  # of a vision transformer with 16 patches
    "mae": (*VIT, "data.views.recipe=mae"),
    "simmim": (*VIT, "data.views.recipe=simmim", "method.mask_size=4"),
}
LAST = "checkpoints/last.ckpt"


class Child:
    """A command of ``erssl`` in a forked process of its own group."""

    def __init__(
        self,
        overrides: list[str],
        log: Path,
        prepare: Callable[[], None] = lambda: None,
        command: str = "pretrain",
    ) -> None:
        """Start it; ``prepare`` is called in it before."""
        self.log = log
        self.began = time.perf_counter()
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                os.setsid()
                out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(out, 1)
                os.dup2(out, 2)
                prepare()
                status = erssl_main([command, *overrides])
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

    def ended(self) -> bool:
        """Whether it has ended by itself; then its status is there."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.status = os.waitstatus_to_exitcode(status)
        return bool(pid)

    def wait(self, limit: float = 120.0) -> int:
        """Its exit status; a process that hangs is killed and counts as -1000."""
        until = time.perf_counter() + limit
        while not self.ended():
            if time.perf_counter() > until:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return -1000
            time.sleep(0.005)
        return self.status

    def sentence(self) -> str:
        """The last line that it wrote."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def traceback_shown(self) -> bool:
        """Whether more than a sentence was written."""
        return "Traceback (most recent call last)" in self.log.read_text(errors="replace")


class Study:
    """Trials, counted by what was done to a run."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Work in a folder; moments are drawn from ``seed``."""
        self.folder = folder
        self.random = random.Random(seed)
        self.numbers = itertools.count()
        self.references: dict[tuple[str, ...], tuple[Path, float]] = {}
        self.counts: dict[str, dict[str, Any]] = {}
        self.commands: list[str] = []  # those that are killed; empty for all
        self.methods: list[str] = []  # those that are resumed; empty for all

    def overrides(self, method: str, *more: str) -> tuple[str, ...]:
        """Of a short run of a method."""
        small = overrides_of({"method": read_recipe(method).small_options})
        return (f"method={method}", *COMMON, *small, *MORE.get(method, ()), *more)

    def child(
        self, overrides: tuple[str, ...], run_dir: Path, *more: str, **keywords: Any
    ) -> Child:
        """Start it in a run directory."""
        return Child([*overrides, f"run_dir={run_dir}", *more], self.new("log"), **keywords)

    def command(self, name: str, arguments: list[str]) -> Child:
        """Start another command."""
        return Child(arguments, self.new("log"), command=name)

    def new(self, kind: str) -> Path:
        """A path that no trial has used."""
        return self.folder / f"{kind}{next(self.numbers)}"

    def reference(self, overrides: tuple[str, ...]) -> tuple[Path, float]:
        """The run that is left alone, and its seconds."""
        if overrides not in self.references:
            run_dir = self.new("whole")
            child = self.child(overrides, run_dir)
            if child.wait():
                raise RuntimeError(child.log.read_text())
            self.references[overrides] = run_dir, time.perf_counter() - child.began
        return self.references[overrides]

    def finish(self, overrides: tuple[str, ...], run_dir: Path) -> str:
        """Resume until it is finished; what went wrong, or nothing."""
        started = (run_dir / "config.yaml").is_file()
        child = self.child(("resume=true",) if started else overrides, run_dir)
        status = child.wait()
        if status:
            return f"resuming ended with {status}: {child.sentence()}"
        return differences(run_dir, self.reference(overrides)[0])

    def count(self, name: str, fault: str, **facts: int) -> None:
        """Take a trial."""
        row = self.counts.setdefault(name, {"trials": 0, "failures": 0, "faults": []})
        row["trials"] += 1
        row["failures"] += bool(fault)
        if fault:
            row["faults"].append(fault)
        for key, value in facts.items():
            row[key] = row.get(key, 0) + value
        print(f"{name} {row['trials']}: {fault or 'the same'} {facts or ''}", flush=True)


def differences(run_dir: Path, other: Path) -> str:
    """What two finished runs do not have in common, to the bit."""
    states = [torch.load(path / LAST, weights_only=True) for path in (run_dir, other)]
    for state in states:
        for reading in state["callbacks"]["ERLens"]["readings"]:
            del reading["seconds"]
        state["callbacks"].pop("Elapsed", None)
    where = unlike(*states)
    if where:
        return f"checkpoints differ at {where}"
    results = [json.loads((p / "results.json").read_text())["metrics"] for p in (run_dir, other)]
    if results[0] != results[1]:
        return f"results differ: {results}"
    tables = []
    for path in (run_dir, other):
        with (path / "metrics.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    return "" if tables[0] == tables[1] else "metrics.csv differs"


def unlike(one: Any, other: Any, where: str = "") -> str:
    """The first place at which two checkpoints differ."""
    if isinstance(one, dict) and isinstance(other, dict) and set(one) == set(other):
        nested = (unlike(one[key], other[key], f"{where}/{key}") for key in one)
        return next((f for f in nested if f), "")
    if isinstance(one, (list, tuple)) and len(one) == len(other):
        nested = (unlike(a, b, f"{where}/{i}") for i, (a, b) in enumerate(zip(one, other)))  # noqa: B905
        return next((f for f in nested if f), "")
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and torch.equal(one, other)
        return "" if same and one.dtype == other.dtype else where
    return "" if one == other or (one != one and other != other) else where


def digit_folder(folder: Path) -> Path:
    """48 digits as files."""
    digits = load_digits()
    for label in range(3):
        (folder / str(label)).mkdir(parents=True)
        for index, scan in enumerate(digits.images[digits.target == label][:16]):
            image = Image.fromarray((scan * 15).astype("uint8"))
            image.save(folder / str(label) / f"{label}-{index}.png")
    return folder


def wait_for_writing(study: Study, child: Child, run_dir: Path) -> None:
    """Until the n-th checkpoint is half written."""
    wanted, seen = study.random.randint(1, 9), 0
    before = False
    while not child.ended():
        now = bool(list((run_dir / "checkpoints").glob("last.ckpt.*.partial")))
        seen += now and not before
        before = now
        if seen == wanted:
            time.sleep(study.random.uniform(0, 0.004))
            return


def remount(place: Path, options: str) -> None:
    """Change a mounted file system, as soon as no file of it is being written."""
    command = ["mount", "-o", f"remount,{options}", str(place)]
    for _ in range(2000):
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return
        time.sleep(0.001)


PROMISES = {
    "resumed with trainer.reload_dataloaders_every_n_epochs=1": (
        "loaders made anew in each epoch: resumed, ends the same"
    ),
    "resumed with trainer.precision=64-true": "a run of float64: resumed, ends the same",
    "EFBIG": "a file may not grow (EFBIG): one sentence naming it; ends the same",
    "EDQUOT": "the quota is used up (EDQUOT): one sentence naming the file; ends the same",
    "a rank of three killed": (
        "`kill -9` of one of three ranks of torchrun: the others end with a sentence; ends the same"
    ),
    **{
        f"{name} killed": f"`kill -9` of `{name}` at any moment: called again, ends the same"
        for name in (
            "knn",
            "kmeans",
            "linear",
            "semi",
            "finetune",
            "transfer",
            "detect",
            "embed",
            "lens",
            "export",
            "predict",
            "segment",
            "report",
            "study",
        )
    },
    "a damaged file": (
        "a file beside a whole checkpoint is damaged: each command does without, or one sentence"
    ),
    "resumed between epochs": "methods resumed from an epoch's end: end the same",
    "resumed inside an epoch": "methods resumed from the middle of an epoch: end the same",
    "kill -9 at a random moment": "`kill -9` at any moment: resumes, ends the same",
    "kill -9 while writing": "`kill -9` while a checkpoint is written: resumes, ends the same",
    "SIGTERM": "SIGTERM: checkpoint, a sentence, status 143; ends the same",
    "SIGINT": "Ctrl-C: checkpoint, a sentence, status 130; ends the same",
    "SIGUSR1": "pre-emption (SIGUSR1): checkpoint, a sentence, status 138; ends the same",
    "SIGTERM to one of two processes": "SIGTERM to one of two processes: both stop; ends the same",
    "SIGTERM to all processes of the group": "SIGTERM to loader processes too: likewise",
    "a damaged newest checkpoint": "newest checkpoint with a wrong bit or cut: the one before",
    "every checkpoint damaged": "every checkpoint damaged: one sentence, status 2",
    "a disk that is full": "disk full: one sentence naming the file; ends the same",
    "a folder that becomes read-only": "folder read-only: one sentence naming it; ends the same",
    "a loader process killed": "a loader process is killed: one sentence; ends the same",
    "an image that breaks": "an image becomes unreadable: one sentence naming it; ends the same",
    "a NaN in the loss": "NaN in the loss: stopped with the step named; ends the same without it",
}


def table(counts: dict[str, dict[str, Any]]) -> str:
    """Promises with their trials and failures, as Markdown."""
    rows = [f"| {PROMISES[n]} | {c['trials']} | {c['failures']} |" for n, c in counts.items()]
    return "\n".join(["| promise | trials | failures |", "|---|---|---|", *rows])
