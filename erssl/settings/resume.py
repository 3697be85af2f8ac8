"""What a resumed run may be told, and what it may not: it goes on as it began."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Trainer

from erssl.data.places import is_moved, is_place, is_same_everywhere
from erssl.errors import ConfigError
from erssl.layers import Layer, flat, merge_layers
from erssl.methods import get_method
from erssl.run.directory import CONFIG
from erssl.settings.compose import GROUPS
from erssl.settings.loggers import logger_names, option_key
from erssl.settings.trainer import AUTO

_PRECISION = "trainer.precision"
# Of pretrainings and evaluations: where and how they run, not what they compute.
OF_ANY_RUN = (
    "run_dir",
    "plots",
    "resume",
    "overwrite",
    "data.num_workers",
    "data.download",
    "data.verify",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.log_every_n_steps",
    "logger",
)
MAY_CHANGE = (
    *OF_ANY_RUN,
    "evaluation.whiten",
    "lens.on_collapse",
    "lens.every_n_steps",
    "checkpoint_every_n_steps",
    "keep_checkpoints",
    "on_nonfinite",
    "save_nonfinite_batch",
)


def may_change(key: str) -> bool:
    """Whether a key says where and how a pretraining is done, not what it computes."""
    return key in MAY_CHANGE or is_of_loggers(key)


def is_of_loggers(key: str) -> bool:
    """Whether a key is an option of loggers, or all of them."""
    return f"{key}.".startswith("logger_options.")


def check_same(
    key: str, given: Mapping[str, Any], stored: Mapping[str, Any], named_only: bool = False
) -> None:
    """Refuse an override that says something else than the run's own config.

    Args:
        key: The override's.
        given: What the overrides come to.
        stored: What the run has.
        named_only: Compare an experiment by its method, data set and length alone.

    Raises:
        ConfigError: Naming the first key that differs.
    """
    if may_change(key):
        return
    if key == "experiment":
        named = ["method.name", "data.name", "epochs", "batch_size", "data.views.n_local_views"]
        under = named if named_only else list(given)
    elif key in GROUPS:
        under = [f"{key}.name"]
    else:
        under = [k for k in given if f"{k}.".startswith(f"{key}.")]
    for name in under:
        changed = name in stored and stored[name] != given.get(name)  # absent: came in later
        excused = may_change(name) or _was_chosen(name, key, given)
        if changed and not (excused or _is_moved(name, given, stored)):
            raise ConfigError(
                f"{name}={given.get(name)} differs from {stored.get(name)} in the run's own "
                f"{CONFIG}; a resumed run keeps its settings, so leave {key} out, or name a new "
                "run_dir."
            )


def _was_chosen(name: str, key: str, given: Mapping[str, Any]) -> bool:
    """Whether the run's own value of a key stands for ``auto``, which is given again."""
    follows = name == "channels_last" and key != name
    return given.get(_PRECISION) == AUTO and (name == _PRECISION or follows)


def _is_moved(name: str, given: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
    """Whether a key says where the run's own images lie now."""
    if not is_place(name) or given["data.name"] != stored["data.name"]:
        return False
    new, old = given.get(name), stored[name]
    if is_same_everywhere(str(stored["data.name"])):
        return True
    return bool(new and old) and is_moved(name, str(new), str(old))


def unsaid(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a run does where its config lacks a key of the trainer or of the method.

    Args:
        given: Resolved settings, of which the keys are taken.
    """
    values = dict.fromkeys(flat(given))
    for group, made in (("trainer", Trainer), ("method", get_method(given["method"]["name"]))):
        for name, parameter in inspect.signature(made).parameters.items():
            if parameter.default is not parameter.empty:
                values |= flat({group: {name: parameter.default}})
    return values


def take_loggers(stored: dict[str, Any], given: Mapping[str, Any], said: set[str]) -> None:
    """Take the loggers that a resumed run is given, without the options of those it had before."""
    options = merge_layers(
        [Layer("", stored["logger_options"]), Layer("", given["logger_options"], renewed=())]
    )[0]
    if "logger" in said:
        stored["logger"] = given["logger"]
        kept = {option_key(name) for name in logger_names(given["logger"])}
        options = {k: v for k, v in options.items() if k in kept or k in given["logger_options"]}
    stored["logger_options"] = options
