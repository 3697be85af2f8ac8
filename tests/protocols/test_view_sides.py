"""The sides of a run's views: what memory, time and training take them to be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors import safe_open

from erssl import limits
from erssl.errors import ConfigError
from erssl.protocols import pretrain
from erssl.protocols.build import check_images
from erssl.protocols.header import _preprocessing
from erssl.protocols.step_time import _seconds_of_step
from erssl.settings.pretrain import read_settings

MIXED = (
    "method=mveb",
    "data=digits",
    "data.image_size=32",
    "data.views.global_image_size=24",
    "data.views.n_local_views=2",
    "data.views.local_image_size=12",
    "batch_size=64",
)
PIXELS = 2 * 24**2 + 2 * 12**2  # of an image's views, each counted once


def test_memory_is_asked_for_each_view_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Global views have their own side, and local ones are not counted as global too."""
    settings, _ = read_settings(list(MIXED))
    need = 4 * 64 * 3 * PIXELS
    monkeypatch.setattr(limits, "main_memory", lambda: need)
    check_images(settings, 64)
    monkeypatch.setattr(limits, "main_memory", lambda: need - 1)
    with pytest.raises(ConfigError, match=r"global_image_size=24 with 64 images"):
        check_images(settings, 64)


def test_the_step_that_is_timed_has_the_views_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many and as large."""
    settings, _ = read_settings(list(MIXED))
    seen: list[list[int]] = []

    class Recorder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def multi_view_step(self, views: list[torch.Tensor]) -> Any:
            seen.append([view.shape[-1] for view in views])
            return SimpleNamespace(loss=self.weight * 1)

    monkeypatch.setattr("erssl.protocols.step_time.build_method", lambda *_: Recorder())
    _seconds_of_step(settings)
    assert {tuple(sides) for sides in seen} == {(24, 24, 12, 12)}


@pytest.mark.parametrize("pipeline", ["device", "lightly"])
def test_a_run_trains_at_one_size_and_evaluates_at_another(pipeline: str, tmp_path: Path) -> None:
    """Its weights say the size of evaluation, its header both."""
    settings, _ = read_settings(list(MIXED))
    (line,) = _preprocessing(settings, {})
    assert line.startswith("Trained at 24 x 24 pixels and evaluated at 32 x 32 pixels, mean ")
    overrides = [
        *MIXED,
        f"data.pipeline={pipeline}",
        "backbone=timm",
        "backbone.name=test_resnet",
        "method.projection_hidden_dim=32",
        "method.projection_dim=16",
        "data.num_workers=0",
        "epochs=1",
        "evaluation.untrained=false",
        "evaluation.linear=false",
        "lens.probe_size=32",
        f"run_dir={tmp_path / 'run'}",
    ]
    result = pretrain.run(overrides, Console(quiet=True))
    assert 0.1 < result.metrics["knn_top1"] <= 1
    with safe_open(tmp_path / "run" / "backbone.safetensors", "pt") as weights:
        assert '"image_size": 32' in str(weights.metadata())
