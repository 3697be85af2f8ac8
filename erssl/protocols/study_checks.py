"""What is looked at before the first run of a study is trained, so that none fails by it later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import torch

from erssl.errors import ConfigError
from erssl.protocols.build import build_method
from erssl.protocols.step_time import count_images
from erssl.protocols.study_runs import Planned

_CLASSES = 10  # of the probe, which are counted where a run begins


def check_before_training(runs: Sequence[Planned]) -> None:
    """See that the images of runs can be listed, and that their methods can be built.

    Args:
        runs: Those to be trained; what several share is looked at once.

    Raises:
        DataError: If there are no such images.
        ConfigError: Naming a run whose method, network and views do not fit together.
    """
    built = set()
    for run in runs:
        settings = run.settings
        count_images(settings.data)
        data = settings.data
        views = [asdict(data.views), data.image_size, data.channels, settings.batch_size]
        parts = [settings.method, asdict(settings.backbone), asdict(settings.optimizer), *views]
        kind = json.dumps(parts, sort_keys=True, default=str)
        if kind in built:
            continue
        built.add(kind)
        try:
            with torch.random.fork_rng(devices=[]):
                build_method(settings, _CLASSES, settings.batch_size)
        except ConfigError as error:
            raise ConfigError(f"The run {run.cell.name} cannot be: {error}") from error
