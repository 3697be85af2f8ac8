"""Files of a run that are damaged while its checkpoint is whole, and the commands that read them.

Every case is one sentence and status 2, or a command that does without the file. Advice to delete
the run (``overwrite=true``) where all that matters is whole counts as a failure.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from erssl.cli.main import main as erssl_main

RUN = (
    "method=simclr",
    "backbone=timm",
    "backbone.name=test_resnet",
    "data.image_size=16",
    "batch_size=16",
    "epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "data.num_workers=0",
    "lens.probe_size=8",
    "evaluation.untrained=false",
    "evaluation.linear=false",
    "evaluation.every_n_epochs=0",
    "method.projection_hidden_dim=16",
    "method.projection_dim=8",
)
TRAINED = (
    "data.num_workers=0",
    "trainer.accelerator=cpu",
    "epochs=1",
    "batch_size=64",
    "fraction=0.1",
    "backbone_lr=0.01",
    "lr_per_256=false",
    "optimizer=sgd",
    "head_lr=0.1",
)
FILES = {
    "run": (
        "config.yaml",
        "results.json",
        "metrics.csv",
        "lens.csv",
        "lens.png",
        "report.md",
        "header.txt",
        "environment.json",
        "backbone.safetensors",
        "curves.png",
    ),
    "semi": (
        "config.yaml",
        "results.json",
        "environment.json",
        "subset.txt",
        "report.md",
        "seed0/seed.json",
        "seed0/predicted.safetensors",
        "seed0/metrics.csv",
        "seed0/backbone.safetensors",
        "seed0/head.safetensors",
    ),
    "cache": ("about.json", "00000.safetensors"),
}


def _cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": _cut,
    "empty": lambda file: file.write_bytes(b""),
    "binary": lambda file: file.write_bytes(bytes(range(256)) * 8),
    "text": lambda file: file.write_text("nonsense: [1, 2\n", encoding="utf-8"),
    "a folder": _folder,
    "missing": lambda file: file.unlink(),
}
if os.geteuid():  # root may read everything
    DAMAGES["no permission"] = lambda file: file.chmod(0)
_HERE = "data.num_workers=0"
COMMANDS: dict[str, tuple[str, ...]] = {
    "run": (
        "pretrain run_dir={run} resume=true",
        "pretrain run_dir={run} resume=true epochs=2",
        "UNFINISHED pretrain run_dir={run} resume=true",
        "pretrain {settings} run_dir={run}",
        "pretrain {settings} run_dir={run} overwrite=true",
        f"knn checkpoint={{run}} k=5 cache=false {_HERE} run_dir={{new}}",
        "report {run} output={new}",
        "lens {run} output={new}.png",
        f"lens checkpoint={{run}} {_HERE} lens.probe_size=8 output={{new}}",
        f"embed checkpoint={{run}} {_HERE} split=val output={{new}}.npy",
        "export checkpoint={run} format=timm output={new}.pth",
        "zoo add {run} name=mine overwrite=true",
    ),
    "semi": (
        "semi {trained} checkpoint={run} run_dir={semi} resume=true",
        "semi {trained} checkpoint={run} run_dir={semi}",
        "semi {trained} checkpoint={run} run_dir={semi} overwrite=true",
        "report {semi} output={new}",
        f"knn checkpoint={{semi}} k=5 cache=false {_HERE} run_dir={{new}}",
    ),
    "cache": (f"knn checkpoint={{run}} k=5 {_HERE} cache_dir={{cache}} run_dir={{new}}",),
}


class Damaged:
    """A run, an evaluation of it and cached features, of which copies are damaged."""

    def __init__(self, folder: Path) -> None:
        """Make them."""
        self.folder, self._numbers = folder, itertools.count()
        self.whole = folder / "whole"
        places = {name: self.whole / name for name in FILES}
        for line in (
            "pretrain {settings} run_dir={run}",
            "semi {trained} checkpoint={run} run_dir={semi}",
            f"knn checkpoint={{run}} k=5 {_HERE} cache_dir={{cache}} run_dir={{new}}",
        ):
            if fault := self.call(line, places)[1]:
                raise RuntimeError(fault)

    def cases(self) -> Iterator[tuple[str, str, str, str]]:
        """Kind of folder, file, damage and command."""
        for kind, files in FILES.items():
            yield from itertools.product((kind,), files, DAMAGES, COMMANDS[kind])

    def trial(self, kind: str, file: str, damage: str, command: str) -> tuple[int, str]:
        """Damage a copy and run a command on it.

        Returns:
            The exit status, and what was wrong with what the command did, or nothing.
        """
        place = self.folder / f"case{next(self._numbers)}"
        shutil.copytree(self.whole, place)
        try:
            places = {name: place / name for name in FILES}
            unfinished = command.startswith("UNFINISHED ")
            if unfinished and file != "results.json":
                (place / kind / "results.json").unlink()
            found = sorted((place / kind).rglob(Path(file).name)) if kind == "cache" else []
            DAMAGES[damage](found[0] if found else place / kind / file)
            status, fault = self.call(command.removeprefix("UNFINISHED "), places)
            return status, fault and f"{kind}/{file}, {damage}, {command}: {fault}"
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def call(self, line: str, places: dict[str, Path]) -> tuple[int, str]:
        """Run a command; its status, and what was wrong."""
        new = self.folder / f"new{next(self._numbers)}"
        names = {**places, "new": new, "settings": " ".join(RUN), "trained": " ".join(TRAINED)}
        arguments = [argument.format(**names) for argument in line.split()]
        arguments = [part for argument in arguments for part in argument.split()]
        out, told = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
                status = erssl_main(arguments)
        except BaseException:
            return 70, traceback.format_exc(limit=-3)
        errors = [text for text in told.getvalue().splitlines() if text.startswith("erssl: ")]
        if status not in (0, 2) or "Traceback" in told.getvalue():
            return status, f"status {status}: {told.getvalue()[-300:]}"
        sentences = [text for text in errors if "Warning" not in text]
        if (len(sentences) == 1) is not (status == 2):
            return status, f"status {status} with {len(sentences)} sentences: {errors}"
        if status == 2 and "start again with overwrite=true" in sentences[0]:
            return status, sentences[0]
        return status, ""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ERSSL_HOME"] = f"{folder}/home"
        damaged = Damaged(Path(folder))
        for case in damaged.cases():
            status, fault = damaged.trial(*case)
            print(*case, "->", status, fault, flush=True)


if __name__ == "__main__":
    main()
