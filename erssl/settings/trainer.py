"""What Lightning's Trainer takes and a command of erssl cannot: refused before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erssl.errors import ConfigError
from erssl.limits import check_count

AUTO = "auto"  # trainer.precision: bfloat16 where the device is quick at it

# Why no command takes a setting, and what to do instead.
_REFUSED = {
    "fast_dev_run": (
        "tries a few batches and keeps no checkpoint",
        "try epochs=1 trainer.limit_train_batches=2",
    ),
    "overfit_batches": (
        "trains on the same few images in every epoch",
        "name a small folder of images, or set trainer.limit_train_batches",
    ),
    "barebones": ("logs nothing and keeps no checkpoint", "leave it out"),
    "max_time": (
        "ends a training in the middle of its schedule",
        "set epochs, or stop the run by SIGTERM and go on with resume=true",
    ),
}
_LEAST = {
    "max_steps": 1,
    "accumulate_grad_batches": 1,
    "num_nodes": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "reload_dataloaders_every_n_epochs": 0,
}
_STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")


def check_trainer(options: Mapping[str, Any]) -> None:
    """Refuse settings of the trainer with which no command does what it promises.

    Args:
        options: The group ``trainer``.

    Raises:
        ConfigError: If there is one.
    """
    for key, (does, instead) in _REFUSED.items():
        if options.get(key):
            raise ConfigError(f"trainer.{key}={options[key]} {does}; {instead}.")
    limit = options.get("limit_train_batches")
    if limit is not None and limit <= 0:
        raise ConfigError(
            f"trainer.limit_train_batches={limit} leaves no batch to train on; give a whole number "
            "from 1 up, or a share above 0."
        )
    for key, least in _LEAST.items():
        value = options.get(key)
        if value is not None and value < least and (key, value) != ("max_steps", -1):
            raise ConfigError(f"trainer.{key} must be at least {least} but is {value}.")
    check_count("trainer.max_steps", options.get("max_steps") or 0)
    strategy = options.get("strategy", "auto")
    if strategy not in _STRATEGIES:
        raise ConfigError(
            f"trainer.strategy={strategy} is none that methods and checkpoints are made for; "
            f"choose {', '.join(_STRATEGIES[:-1])} or {_STRATEGIES[-1]}."
        )


def check_batches(options: Mapping[str, Any], batches: int) -> None:
    """Refuse shares and intervals that do not fit the batches of an epoch.

    Args:
        options: The group ``trainer``.
        batches: Of an epoch, on a device.

    Raises:
        ConfigError: If an epoch would have none to train on, or is over before a validation.
    """
    limit = options.get("limit_train_batches")
    if limit is not None:
        left = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
        if left < 1:
            raise ConfigError(
                f"trainer.limit_train_batches={limit} leaves none of the {batches} batches of an "
                "epoch; give a whole number from 1 up."
            )
        batches = left
    every, by_epoch = options.get("val_check_interval"), options.get("check_val_every_n_epoch", 1)
    if isinstance(every, int) and by_epoch is not None and not 1 <= every <= batches:
        raise ConfigError(
            f"trainer.val_check_interval={every} does not fit the {batches} batches of an epoch; "
            f"set it to at most {batches}, or trainer.check_val_every_n_epoch=null."
        )
