"""Folders of runs that ended before they had computed anything are taken unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from erssl.errors import RunError
from erssl.protocols import kmeans, knn, linear, semi
from erssl.run.directory import RunDirectory, only_begun
from erssl.settings.pretrain import read_settings

SETTINGS = "run_dir: null\noverwrite: false\n"


@pytest.mark.parametrize(
    "left",
    [
        {},
        {"environment.json": "{}", "header.txt": "h", "subset.txt": "a.png"},
        {"seed0/hparams.yaml": "{}", "seed0/events.out.tfevents.1.2.3.0": "x"},
        {"metrics.csv": "", "checkpoints/last.ckpt.123.partial": "half"},
        {"backbone.safetensors": "what an evaluation was given"},
        {"notes.txt": "a user's own"},
    ],
)
def test_settings_alone_are_replaced(left: dict[str, str], tmp_path: Path) -> None:
    """By the next run, which deletes nothing that erssl does not write."""
    for name, text in {"config.yaml": SETTINGS, **left}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    RunDirectory(tmp_path)
    kept = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()}
    assert kept == {"notes.txt"} & left.keys()


@pytest.mark.parametrize(
    "left",
    [
        {"results.json": ""},
        {"metrics.csv": "step,loss\n1,2.0\n"},
        {"lens.csv": "step\n1\n"},
        {"nonfinite-step3.pt": "x"},
        {"checkpoints/last-1.ckpt": "x"},
        {"checkpoints/model_0000004.pth": "x"},
        {"seed0/seed.json": "{}"},
        {"seed0/metrics.csv": "step\n1\n"},
        {"seed0/aircraft/results.json": "{}"},
        {"transfer.md": "table"},
        {"config.yaml": f"{SETTINGS}method: byol\n", "backbone.safetensors": "of a pretraining"},
        {"config.yaml": "name: of a user's own program\n"},
        {"config.yaml": "["},
    ],
)
def test_whatever_was_computed_and_files_of_others_stay(
    left: dict[str, str], tmp_path: Path
) -> None:
    """Until they are given up in as many words."""
    for name, text in {"config.yaml": SETTINGS, **left}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    with pytest.raises(RunError, match="already holds"):
        RunDirectory(tmp_path)
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before


def test_the_settings_of_every_command_are_known_as_erssls(tmp_path: Path) -> None:
    """A pretraining's, here; those of evaluations share one file."""
    _, config = read_settings(["method=simclr", "data=digits"])
    RunDirectory(tmp_path).write_config(config)
    assert only_begun(tmp_path)


class Failed(Exception):
    """What ends a command in the middle."""


def _fail(*_: object, **__: object) -> None:
    raise Failed


COMMON = ("checkpoint=random:resnet18", "data=digits", "data.image_size=16", "data.num_workers=0")


@pytest.mark.parametrize(
    ("engine", "target", "arguments"),
    [
        (knn, "erssl.protocols.evaluation.Evaluation.features", COMMON),
        (kmeans, "erssl.protocols.evaluation.Evaluation.features", COMMON),
        (linear, "erssl.protocols.evaluation.Evaluation.features", (*COMMON, "mode=cached")),
        (semi, "erssl.protocols.classifier_training.train", (*COMMON, "fraction=0.1")),
    ],
)
def test_a_command_that_failed_before_any_result_is_called_again_as_it_was(
    engine: object, target: str, arguments: tuple[str, ...], tmp_path: Path, monkeypatch
) -> None:
    """The second call comes as far as the first."""
    monkeypatch.setattr(target, _fail)
    for _ in range(2):
        with pytest.raises(Failed):
            engine.run([*arguments, f"run_dir={tmp_path / 'run'}"], Console(quiet=True))
        assert (tmp_path / "run" / "config.yaml").is_file()
