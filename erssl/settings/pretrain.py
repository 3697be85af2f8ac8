"""The settings of a pretraining run: what may be said, and what it becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import Trainer

from erssl.data import DataOptions, ViewOptions, default_options
from erssl.data.places import is_place
from erssl.data.registry import earlier_options, get_dataset
from erssl.errors import ConfigError, RunError
from erssl.layers import flat
from erssl.methods import OptimizerOptions, available_methods, get_method
from erssl.models import BackboneOptions
from erssl.paths import user_path
from erssl.run.directory import CONFIG
from erssl.settings.compose import (
    FREE,
    Schema,
    check_values,
    compose_sources,
    recipe_of,
    schema_from,
)
from erssl.settings.keys import OWN_TRAINER_KEYS
from erssl.settings.pretrain_options import EvaluationOptions, LensOptions, PretrainSettings
from erssl.settings.resume import check_same, may_change, take_loggers, unsaid
from erssl.settings.start import with_start
from erssl.settings.trainer import AUTO
from erssl.yaml_text import comments_of, read_settings_file, read_yaml_text

# What the command itself gives to a method's constructor.
_OWN_METHOD_KEYS = (
    "batch_size_per_device",
    "num_classes",
    "backbone",
    "optimizer",
    "channels_last",
    "compile",
)


def read_settings(overrides: list[str]) -> tuple[PretrainSettings, dict[str, Any]]:
    """Read settings from overrides such as ``method=mveb``, and their fully resolved config.

    See :func:`read_sources`.
    """
    settings, resolved, _ = read_sources(overrides)
    return settings, resolved


def read_sources(overrides: list[str]) -> tuple[PretrainSettings, dict[str, Any], dict[str, str]]:
    """Read settings from overrides, their resolved config, and where each of its values comes from.

    A resumed run takes its settings from its own ``config.yaml``; overrides may repeat them, and
    may change where it runs and where its images lie, but not what it computes, except for more
    ``epochs``. A run that starts from weights takes architecture and preprocessing from them.

    Returns:
        The settings, nested plain values, and sources by dotted key, such as ``method simsiam``.

    Raises:
        ConfigError: If a key or value is unknown, or a resumed run would change.
        RunError: If the ``config.yaml`` of a run to resume cannot be read.
    """
    config, sources = compose_sources("pretrain", overrides, _schema)
    said = {override.partition("=")[0] for override in overrides}
    if not said & {"method", "method.name", "experiment"}:
        sources["method.name"] = "default"  # which nobody chose
    file = user_path(config["run_dir"] or "") / CONFIG
    if config["resume"] and config["run_dir"] and file.is_file():
        # what overrides that repeat the run's are checked beside
        beside = {"checkpoint", "epochs"} - said - ({"epochs"} if "experiment" in said else set())
        config |= {key: value for key, value in stored_config(file).items() if key in beside}
    _fit_warmup(config, sources)
    settings = _settings(config)
    if not settings.resume or not file.is_file():
        if settings.checkpoint:
            settings, started = with_start(settings, said)
            sources |= started
        resolved = dataclasses.asdict(settings)
        return settings, resolved, _sources(resolved, sources)
    resolved = dataclasses.asdict(settings)
    stored, stored_sources = stored_config(file), comments_of(read_yaml_text(file))
    if "epochs" in said and resolved["epochs"] > stored["epochs"]:  # the run is made longer
        stored["epochs"], stored_sources["epochs"] = resolved["epochs"], "override"
    with_defaults = unsaid(resolved) | flat(dataclasses.asdict(_settings(stored)))
    for key in said:
        # A build before this one wrote no sources, and its recipes were others.
        named_only = key == "experiment" and not stored_sources
        before = flat(stored) if key == "experiment" else with_defaults
        check_same(key, flat(resolved), before, named_only)
    stored |= {"run_dir": settings.run_dir, "resume": True, "overwrite": settings.overwrite}
    take_loggers(stored, resolved, said)
    for key in (key for key in said if may_change(key) or is_place(key)):
        node, _, name = key.rpartition(".")
        if node and node in stored:
            stored[node][name] = resolved[node][name]
        stored_sources[key] = "override"
    settings = _settings(stored)
    return settings, dataclasses.asdict(settings), stored_sources


def _fit_warmup(config: dict[str, Any], sources: dict[str, str]) -> None:
    """Cut a warm-up that no override names and that the epochs have no room for to their tenth."""
    optimizer, key = config["optimizer"], "optimizer.warmup_epochs"
    warmup = optimizer.get("warmup_epochs", OptimizerOptions.warmup_epochs)
    if sources.get(key) != "override" and warmup >= config["epochs"] > 0:
        optimizer["warmup_epochs"] = round(config["epochs"] / 10)
        sources[key] = f"a tenth of epochs, which {warmup} of {sources.get(key)} do not fit into"


def _sources(resolved: Mapping[str, Any], sources: Mapping[str, str]) -> dict[str, str]:
    """A source for every value; what no layer names is the default of what reads it."""
    return {key: sources.get(key, "default") for key in flat(resolved)}


def run_settings(run_dir: Path, overrides: list[str]) -> PretrainSettings:
    """Settings of a run directory; ``overrides`` may change what it is read on, not what it is.

    Preprocessing and views stay those of the run unless an override says otherwise.

    Raises:
        ConfigError: If an override is wrong.
        RunError: If the run's ``config.yaml`` cannot be read.
    """
    settings = _settings(stored_config(run_dir / CONFIG))
    said = {override.partition("=")[0] for override in overrides}
    if "backbone" in {key.partition(".")[0] for key in said}:
        raise ConfigError(f"{run_dir} has a backbone of its own; leave backbone out.")
    data, composed = read_on(settings.data, overrides)
    changes: dict[str, Any] = {"data": data}
    if any(key.startswith("lens.") for key in said):
        changes["lens"] = composed.lens
    if "seed" in said:
        changes["seed"] = composed.seed
    return dataclasses.replace(settings, **changes)


def read_on(own: DataOptions, overrides: list[str]) -> tuple[DataOptions, PretrainSettings]:
    """What is read of the images of a run, or of others that overrides name.

    Preprocessing and views stay those of the run unless an override says otherwise.

    Args:
        own: The images of the run, and how it reads them.
        overrides: ``key=value``, about data and else.

    Returns:
        The images to read, and all that the overrides come to.

    Raises:
        ConfigError: If an override is wrong.
    """
    said = {override.partition("=")[0] for override in overrides}
    if "data" not in said:
        places = {k: getattr(own, k) for k in own.own_options()}
        named = [f"data.{k}={place}" for k, place in places.items() if isinstance(place, str)]
        overrides = [f"data={own.name}", *named, *overrides]
    composed, _ = read_settings(overrides)
    data = own
    if "data.channels" in said and composed.data.channels != own.channels:
        raise ConfigError(
            f"data.channels={composed.data.channels} but the backbone takes images of "
            f"{own.channels}; leave data.channels out."
        )
    if composed.data.name != own.name:  # other images, with the preprocessing and views of the run
        kept = {k: getattr(own, k) for k in (*own.preprocessing, "views")}
        data = dataclasses.replace(composed.data, **kept)
    # all at once, since some are checked together
    changed: dict[str, Any] = {}
    views: dict[str, Any] = {}
    for key in said:
        group, _, name = key.partition(".")
        if group == "data" and name.startswith("views."):
            view = name.removeprefix("views.")
            views[view] = getattr(composed.data.views, view)
        elif group == "data" and name:
            changed[name] = getattr(composed.data, name)
    changed["views"] = dataclasses.replace(changed.get("views", data.views), **views)
    return data.changed(**changed), composed


def stored_config(file: Path) -> dict[str, Any]:
    """Read the settings of a run, with the defaults of keys that came in after it was started.

    Raises:
        RunError: If the file cannot be read, or is not what a run writes.
    """
    try:
        stored: Any = read_settings_file(file)
        keys = {f.name: f.default for f in fields(PretrainSettings)}
        optional = {k: v for k, v in keys.items() if v is not dataclasses.MISSING}
        optional["logger_options"] = {}
        if isinstance(stored, dict):  # keys that came in after the run was started
            stored = optional | stored
            if missing := sorted(set(keys) - set(stored)):
                raise ConfigError(f"{missing[0]} is missing")
        if not isinstance(stored, dict) or set(stored) != set(keys):
            raise ConfigError("it is not what a run writes")
        for group in ("method", "data", "backbone"):
            if not isinstance(stored[group], dict) or "name" not in stored[group]:
                raise ConfigError(f"{group}.name is missing")
        stored["data"] = earlier_options(stored["data"])
        name = stored["method"]["name"]
        known = name in available_methods()
        if known:
            stored["method"] = recipe_of(name).file.earlier | stored["method"]
        check_values(stored, _schema(stored, known))
    except (ValueError, OSError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise RunError(
            f"{file} cannot be read ({reason}); put a copy of it back, or name another run_dir; "
            f"a checkpoint in {file.parent} may be read by its own name."
        ) from error
    return stored


def resolved_config(file: Path) -> dict[str, Any]:
    """Read the settings of a run as a new run has them, later options at their default.

    Raises:
        RunError: If the file cannot be read, or is not what a run writes.
    """
    stored = stored_config(file)
    resolved = dataclasses.asdict(_settings(stored))
    name = stored["method"]["name"]
    if name in available_methods():
        recipe = recipe_of(name)
        resolved["method"] = {**recipe.options, **recipe.file.earlier, **stored["method"]}
    return resolved


def stored_data(config: Mapping[str, Any]) -> DataOptions:
    """The images of a composed or stored config, what it does not name as suits the data set."""
    config = dict(config)
    views: dict[str, Any] = dict(config.pop("views", {}))
    data = default_options(**config)
    if views:
        views = {"recipe": data.views.recipe} | views
        data = dataclasses.replace(data, views=ViewOptions(**views))
    return data


def _settings(config: Mapping[str, Any]) -> PretrainSettings:
    data = stored_data(config["data"])
    return PretrainSettings(
        **{
            **config,
            "data": data,
            "backbone": _backbone(config["backbone"], data),
            "optimizer": OptimizerOptions(**config["optimizer"]),
            "evaluation": EvaluationOptions(**config["evaluation"]),
            "lens": LensOptions(**config["lens"]),
        }
    )


def _backbone(said: Mapping[str, Any], data: DataOptions) -> BackboneOptions:
    backbone = BackboneOptions(**{"in_channels": data.channels, **said})
    if backbone.in_channels != data.channels:
        raise ConfigError(
            f"backbone.in_channels={backbone.in_channels} differs from data.channels="
            f"{data.channels}; leave it out, since it follows from the images."
        )
    return backbone


def _schema(config: Mapping[str, Any], known: bool = True) -> Schema:
    """What the composed config may hold; the method's keys are those of its class.

    Of a run whose method is not ``known`` here, nothing checks them: its backbone can be read.
    """
    name = str(config["method"]["name"])
    own = schema_from(get_method(name), without=_OWN_METHOD_KEYS) if known else {}
    backbone = schema_from(BackboneOptions) | {"options": FREE}
    trainer = schema_from(Trainer, without=OWN_TRAINER_KEYS)
    trainer["precision"] = Literal[AUTO] | trainer["precision"]
    return schema_from(PretrainSettings) | {
        "method": {"name": str, **own} if known else FREE,
        "data": schema_from(get_dataset(str(config["data"]["name"]))),
        "backbone": backbone,
        "trainer": trainer,
        "logger_options": FREE,
        "evaluation": schema_from(EvaluationOptions) | {"probes": FREE},
    }
