"""Finished pretrainings as they are compared without labels: what was read of each, and on what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erssl.data.places import images_digest
from erssl.errors import DataError
from erssl.layers import flat
from erssl.protocols.readings import readings_of
from erssl.run.directory import CONFIG, RESULTS
from erssl.run.summary import read_results
from erssl.settings.pretrain import resolved_config
from erssl.studies.ranking import ReadRun
from erssl.studies.store import digest_of, inputs_digest, key_of

LOGGED = ("train_loss", "train_nats_below_uniform", "train_alignment")  # while training
ACCURACY = "knn_top1"


def read_run(folder: Path, places: Sequence[str] = (), logged_only: bool = False) -> ReadRun:
    """Read a finished pretraining: what training logged, and the readings of its checkpoint.

    Args:
        folder: Its directory.
        places: Where the images are, if no longer where the run had them: overrides such as
            ``data.train_dir=images``, of which those count that its data set has.
        logged_only: Leave out the readings that need the checkpoint and the images.

    Raises:
        ErsslError: If it is no pretraining, or settings, checkpoint or images cannot be read.
    """
    results = read_results(folder / RESULTS)
    if results["protocol"] != "pretrain":
        raise DataError(f"{folder} is no pretraining.")
    config = resolved_config(folder / CONFIG)
    own = [place for place in places if place.partition("=")[0] in flat({"data": config["data"]})]
    metrics = results["metrics"]
    readings = {} if logged_only else readings_of(folder, own)
    readings |= {name: float(metrics[name]) for name in LOGGED if name in metrics}
    there = dict(place.removeprefix("data.").partition("=")[::2] for place in own)
    data = {**config["data"], **there}
    digest = digest_of(folder) or inputs_digest({**config, "data": data})
    images = images_digest(data) if config.get("checkpoint") else digest
    return ReadRun(
        name=folder.name,
        method=str(results["method"]),
        setting=_setting(config, images),
        key=key_of(config, digest),
        accuracy=float(metrics.get(ACCURACY, float("nan"))),
        readings=readings,
    )


def _setting(config: dict[str, Any], images: str) -> str:
    """What a run was trained and measured on: images, their size, network and neighbours."""
    counted = {"data.name", "data.image_size", "evaluation.knn_k", "evaluation.knn_temperature"}
    parts = {
        key: value
        for key, value in flat(config).items()
        if key in counted or key.startswith("backbone.")
    }
    return json.dumps({"images": images, **parts}, sort_keys=True, default=str)
