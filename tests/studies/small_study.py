"""A study of two methods on the digits, as tests write, finish and run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from erssl.protocols import study as command
from erssl.run.directory import environment, make_results
from erssl.run.result import Result
from erssl.settings.pretrain import read_settings

SMALL: dict[str, Any] = {
    "question": "Does the batch matter?",
    "axes": {
        "method": {"SimCLR": {"method": "simclr"}, "MVEB": {"method": "mveb"}},
        "batch": {"128": {"batch_size": 128}, "256": {"batch_size": 256}},
    },
    "skip": [["MVEB", "256"]],
    "scales": {
        "tiny": {
            "about": "digits",
            "overrides": {
                "data": "digits",
                "data.pipeline": "lightly",
                "data.image_size": 16,
                "data.views.recipe": "digits",
                "epochs": 1,
                "trainer.precision": "32-true",
                "evaluation.knn_k": 20,
                "lens.probe_size": 0,
                "batch_size": 256,
                "backbone": "timm",
                "backbone.name": "test_resnet",
                "data.num_workers": 0,
                "method.projection_hidden_dim": 32,
                "method.projection_dim": 16,
            },
        }
    },
}


def written(folder: Path, **changes: Any) -> str:
    """A study of its own in a folder."""
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False))
    return str(file)


def finish(planned: command.Planned, **metrics: float) -> None:
    """Leave what a pretraining leaves, with these metrics."""
    config = read_settings(list(planned.cell.overrides))[1]
    planned.path.mkdir(parents=True, exist_ok=True)
    (planned.path / "config.yaml").write_text(yaml.safe_dump(config))
    results = make_results("pretrain", "digits", "simclr", metrics, 0, config, environment(), 1.0)
    (planned.path / "results.json").write_text(json.dumps(results))


def run(*words: str) -> Result:
    """The command, silent."""
    return command.run(words, Console(quiet=True))
