"""Whether an evaluation that is resumed goes on as it began."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from erssl.data.registry import available_datasets, get_dataset
from erssl.errors import ConfigError, RunError
from erssl.layers import flat
from erssl.settings.resume import OF_ANY_RUN, is_of_loggers
from erssl.settings.segmentation import OF_WINDOWS
from erssl.yaml_text import read_settings_file

# Of an evaluation that is resumed: where and how it runs, not what it computes.
_MAY_CHANGE = (
    *OF_ANY_RUN,
    "cache",
    "cache_dir",
    "features_storage",
    "feature_batch_size",
    "num_workers",
    "download",
)
# Of what is evaluated and on what, which may change under the same name; after the terms for it.
_DIGESTS = {
    "digests.weights": "The weights of checkpoint= are",
    "digests.training_images": "The training images are",
    "digests.validation_images": "The validation images are",
    "digests.training_annotations": "The annotations to train on are",
    "digests.validation_annotations": "The annotations to evaluate on are",
    "subset.images": "The images of fraction= are",
    "subset.sha256": "The images of fraction= are",
}
# Keys that came in later, with what evaluations did before.
_FORMER = {
    "data.exif": False,
    "features_precision": "float32",
    "inputs": "square",  # of segmentation, and what other inputs read
    **OF_WINDOWS,
}


def may_change(key: str) -> bool:
    """Whether a key says where and how any evaluation is done, not what it computes."""
    return key in _MAY_CHANGE or is_of_loggers(key)


def check_same_settings(file: Path, config: Mapping[str, Any], also: Sequence[str] = ()) -> None:
    """Make sure that an evaluation goes on as it began.

    Args:
        file: The settings that it began with.
        config: Those that it is resumed with.
        also: Keys of the command too that say where and how it runs, not what it computes.

    Raises:
        ConfigError: Naming the first key that differs.
        RunError: If the file cannot be read.
    """
    try:
        stored: Any = read_settings_file(file)
        if not isinstance(stored, dict) or "checkpoint" not in stored:
            raise TypeError("it holds no settings")
    except (ValueError, OSError, TypeError) as error:
        raise RunError(
            f"{file} cannot be read; put a copy of it back, or name another run_dir."
        ) from error
    given = OmegaConf.to_container(OmegaConf.create(dict(config)))
    before = {_key_of_today(key): value for key, value in flat(stored).items()}
    now = flat(given)
    # of an evaluation that was begun before there was the key
    for key, former in {**_data_defaults(now), **_FORMER}.items():
        if key in now:
            before.setdefault(key, former)
    old = "features_storage" not in before  # always in memory, and in float32 unless told
    if old and (before.get("features_dtype"), now.get("features_dtype")) == ("float32", "auto"):
        before["features_dtype"] = "auto"
    if isinstance(before.get("seeds"), int) and before["seeds"] < now["seeds"]:
        before["seeds"] = now["seeds"]  # each is a training of its own, so there may be more
    # two follow from the number of images, whose digest says more; the third is said, not set
    # every data set had the options of all once, none of which it reads
    unread = {key for key in before if key.startswith("data.") and key not in now}
    for key in sorted({*before, *now} - {"features_k", "fitted", "assumed"} - unread):
        if may_change(key) or key in (*also, *_DIGESTS):
            continue
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{key}={now.get(key)} differs from {before.get(key)} in {file}; an evaluation "
                "that is resumed keeps its settings, so say the same, or name a new run_dir."
            )
    for key, what in _DIGESTS.items():
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{what} not what they were when the evaluation in {file.parent} began; name a new "
                "run_dir, or start again with overwrite=true."
            )


def _data_defaults(now: Mapping[str, Any]) -> dict[str, Any]:
    """What the options of a data set were before there was a key for them: their defaults.

    Args:
        now: The settings of today, by dotted key.
    """
    name = now.get("data.name")
    if name not in available_datasets():
        return {}
    options = dataclasses.fields(get_dataset(str(name)))
    known = {f.name: f.default for f in options if f.default is not dataclasses.MISSING}
    return flat({"data": known})


def _key_of_today(key: str) -> str:
    """A key of a ``config.yaml``, also of one that was written when images had another name."""
    return key.replace("pictures", "images")
