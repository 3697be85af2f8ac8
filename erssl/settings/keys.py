"""The keys of commands that are not composed of layers, each with what it takes; and of none."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

from erssl.yaml_text import comments_of


def command_keys(command: str) -> dict[str, str]:
    """Keys of ``configs/<command>.yaml``, each with the comment beside it."""
    comments = comments_of(_text(command))
    return {key: comments.get(key, "") for key in _content(command) if key != "defaults"}


def folder_key(command: str) -> str:
    """The key that a path without a key is most likely meant for."""
    if has_own_images(command):
        return "data_root"
    return "data" if command in WITH_FOLDERS else "data=imagefolder data.train_dir"


def has_own_images(command: str) -> bool:
    """Whether a command names its images by ``data_root`` in place of ``data``."""
    return "data_root" in command_keys(command)


def takes_data(command: str) -> bool:
    """Whether a command takes ``data=``; an evaluation does where it builds on ``images.yaml``."""
    below = config_defaults(command)
    if "evaluate" in below:
        return "images" in below
    return command not in _WITHOUT_DATA and not has_own_images(command)


def config_defaults(command: str) -> list[str]:
    """Names of the files that ``configs/<command>.yaml`` builds on."""
    named = _content(command).get("defaults", ())
    return [each for each in named if isinstance(each, str)]


def _content(command: str) -> dict[str, Any]:
    return yaml.safe_load(_text(command)) or {}


def _text(command: str) -> str:
    return (files("erssl.configs") / f"{command}.yaml").read_text(encoding="utf-8")


_WITHOUT_DATA = ("export", "methods", "report", "zoo")
WITH_FOLDERS = ("embed", "predict")  # commands whose data= may be a folder
LENS_KEYS = command_keys("lens")
EXPORT_KEYS = command_keys("export")
# What the commands themselves give to the Trainer.
OWN_TRAINER_KEYS = (
    "max_epochs",
    "logger",
    "callbacks",
    "default_root_dir",
    "enable_progress_bar",
    "enable_checkpointing",
    "enable_model_summary",
    "plugins",
    "profiler",
    "model_registry",
    "sync_batchnorm",
    "num_sanity_val_steps",
)
