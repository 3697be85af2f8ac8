"""Readings without labels of a finished pretraining, kept beside its results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from erssl.callbacks import ERLens
from erssl.callbacks.er_lens import Embed
from erssl.data import SSLDataModule
from erssl.errors import DataError
from erssl.evaluation.label_free import SPACES, label_free_reading
from erssl.files import write_json
from erssl.protocols.build import trained_method
from erssl.protocols.evaluation import best_device
from erssl.run.directory import LAST_CHECKPOINT, READINGS, RESULTS
from erssl.settings.pretrain import run_settings

IMAGES = 1024  # of training, or all where there are fewer


def kept_readings(run: Path) -> dict[str, float] | None:
    """The readings that lie in a run directory; ``None`` where there are none of this training."""
    try:
        content: Any = json.loads((run / READINGS).read_text(encoding="utf-8"))
        if content["of"] != _training(run):  # one that has been made longer since, or made anew
            return None
        return {str(name): float(value) for name, value in content["readings"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def readings_of(run: Path, overrides: Sequence[str] = ()) -> dict[str, float]:
    """The readings of a run, which are made from its last checkpoint where they are not kept yet.

    Of 1,024 training images, spread evenly, in two views of the run's own recipe; with the network
    in eval mode. Names begin with ``features_`` or ``embedding_``. What is not finite is left out.

    Args:
        run: The directory of a finished pretraining.
        overrides: Where the images are, if no longer where the run had them.

    Raises:
        ErsslError: If checkpoint or images cannot be read.
    """
    kept = kept_readings(run)
    if kept is not None:
        return kept
    file = run / LAST_CHECKPOINT
    if not file.is_file():
        raise DataError(f"{run} has no {LAST_CHECKPOINT} any more, which readings are made from.")
    settings = run_settings(run, list(overrides))
    options = dataclasses.replace(settings.data, pipeline="lightly")  # a few images only
    if hasattr(options, "verify") and getattr(options, "on_error", "") == "raise":
        options = options.changed(verify=False)
    data = SSLDataModule(options, 1, settings.seed)
    images = data.datasets.train
    size = min(IMAGES, len(images))
    if size < 4:
        raise DataError(f"{run} has {size} training images, and readings need at least 4.")
    views = data.spread_views(images, size)
    method = trained_method(file, settings).to(best_device())
    readings: dict[str, float] = {}
    embeds: tuple[Embed, ...] = (method, method.embed)
    for space, embed in zip(SPACES, embeds, strict=True):
        outputs, _ = ERLens(views, embed=embed).outputs(method)
        values = label_free_reading([output.float().cpu() for output in outputs])
        readings |= {f"{space}_{name}": value for name, value in values.items()}
    finite = {name: value for name, value in readings.items() if np.isfinite(value)}
    content = {"images": size, "views": 2, "of": _training(run), "readings": finite}
    write_json(run / READINGS, content)
    return finite


def _training(run: Path) -> str:
    """What tells one training's results in this directory from another's."""
    return hashlib.sha256((run / RESULTS).read_bytes()).hexdigest()
