"""What is measured of a finished pretraining afterwards, kept beside its results."""

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
from erssl.evaluation import extract_features, linear_accuracy
from erssl.evaluation.label_free import SPACES, label_free_reading
from erssl.files import write_json
from erssl.protocols.build import trained_method
from erssl.protocols.evaluation import best_device
from erssl.run.directory import LAST_CHECKPOINT, LINEAR, READINGS, RESULTS
from erssl.settings.pretrain import run_settings
from erssl.settings.pretrain_options import PretrainSettings

IMAGES = 1024  # of training, or all where there are fewer


def kept_readings(run: Path) -> dict[str, float] | None:
    """The readings that lie in a run directory; ``None`` where there are none of this training."""
    return _kept(run, READINGS)


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
    file, settings, data = _opened(run, overrides, pipeline="lightly")  # a few images only
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


def kept_linear(run: Path) -> dict[str, float]:
    """The linear accuracy that lies in a run directory; empty where there is none of this run."""
    return _kept(run, LINEAR) or {}


def linear_of(run: Path) -> dict[str, float]:
    """The accuracy of logistic regression on a run's features, as ``evaluation.linear`` has it.

    From the last checkpoint, where it is not kept yet, so that a run which ended without it need
    not be trained again.

    Args:
        run: The directory of a finished pretraining.

    Returns:
        ``linear_top1``; empty where images have no labels.

    Raises:
        ErsslError: If checkpoint or images cannot be read.
    """
    if kept := kept_linear(run):
        return kept
    file, settings, data = _opened(run)
    if not data.measurable:
        return {}
    backbone = trained_method(file, settings).backbone.to(best_device())
    train, val = (
        extract_features(backbone, data.eval_dataloader(split), best_device())
        for split in ("train", "val")
    )
    measured = {"linear_top1": linear_accuracy(train, val)}
    write_json(run / LINEAR, {"of": _training(run), "readings": measured})
    return measured


def _kept(run: Path, name: str) -> dict[str, float] | None:
    """The values of a file in a run directory; ``None`` where there are none of this training."""
    try:
        content: Any = json.loads((run / name).read_text(encoding="utf-8"))
        if content["of"] != _training(run):  # one that has been made longer since, or made anew
            return None
        return {str(name): float(value) for name, value in content["readings"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _opened(
    run: Path, overrides: Sequence[str] = (), **changes: Any
) -> tuple[Path, PretrainSettings, SSLDataModule]:
    """The last checkpoint of a run, its settings and its images."""
    file = run / LAST_CHECKPOINT
    if not file.is_file():
        raise DataError(f"{run} has no {LAST_CHECKPOINT} any more, which readings are made from.")
    settings = run_settings(run, list(overrides))
    options = dataclasses.replace(settings.data, **changes)
    if hasattr(options, "verify") and getattr(options, "on_error", "") == "raise":
        options = options.changed(verify=False)
    return file, settings, SSLDataModule(options, settings.batch_size, settings.seed)


def _training(run: Path) -> str:
    """What tells one training's results in this directory from another's."""
    return hashlib.sha256((run / RESULTS).read_bytes()).hexdigest()
