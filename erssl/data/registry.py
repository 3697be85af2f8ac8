"""Data sets by name: a file each in ``erssl/data/sources``, and those that other packages announce.

A third party registers a class with :func:`register_dataset` and names its module under the
entry-point group ``erssl.datasets``; ``data: <name>`` then works in a config. What a run on it
takes where nothing else is said (backbone, epochs, batch) stands in ``<name>.yaml`` beside that
module; ours are the files of ``configs/data``.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import dataclass_transform

from erssl.announced import load_announced
from erssl.data.checks import check_choice
from erssl.data.datasets import Datasets
from erssl.data.options import DataOptions
from erssl.errors import ConfigError
from erssl.layers import ConfigFile, has_config_file, parse_config_file, register_config_file

DATASETS: dict[str, type[DataOptions]] = {}
"""The data sets that are known by now; :func:`available_datasets` knows all."""

D = TypeVar("D", bound=DataOptions)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def register_dataset(
    name: str, config: str | Path | Mapping[str, Any] | None = None
) -> Callable[[type[D]], type[D]]:
    """Class decorator that makes a data set known as ``name``.

    The class becomes a frozen dataclass; its annotated attributes are the options
    ``data.<attribute>``.

    Args:
        name: As in ``data=<name>``; must be free.
        config: What a run on these images takes where nothing else is said: a YAML file with the
            keys of the whole config, or its content; ``None`` for ``<name>.yaml`` beside the class,
            and without such a file for nothing beyond the defaults.

    Returns:
        The decorator, which gives the class back.

    Raises:
        ConfigError: If another class has the name already, or the file is no YAML.

    Example:
        >>> @register_dataset("tiles")
        ... class Tiles(DataOptions):
        ...     file: str | None = None
        ...
        ...     def load(self) -> Datasets: ...
        >>> default_options("tiles", file="tiles.npy").image_size
        224
        >>> del DATASETS["tiles"]
    """

    def decorate(cls: type[D]) -> type[D]:
        known = DATASETS.get(name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise ConfigError(
                f"The data set name {name!r} is taken by {known.__qualname__}; register "
                f"{cls.__qualname__} under another one."
            )
        made = dataclass(frozen=True, kw_only=True)(cls)
        made.dataset_name = name
        DATASETS[name] = made
        if config is not None or not has_config_file("data", name):
            register_config_file("data", name, _config(name, made, config))
        return made

    return decorate


def _config(
    name: str, cls: type[DataOptions], given: str | Path | Mapping[str, Any] | None
) -> ConfigFile:
    """The config file of a data set that is not among ours."""
    if isinstance(given, Mapping):
        content = {**given, "data": {"name": name, **given.get("data", {})}}
        return ConfigFile(("_self_",), content)
    module = getattr(sys.modules.get(cls.__module__), "__file__", None)
    file = Path(given) if given else Path(module or "").with_name(f"{name}.yaml")
    if given is None and not (module and file.is_file()):
        return ConfigFile(("_self_",), {"data": {"name": name}})
    try:
        return parse_config_file(file.read_text(encoding="utf-8"), "data")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"{file} is no config of data={name} ({reason}).") from error


def available_datasets() -> list[str]:
    """Names of all data sets, those of other packages included, in alphabetical order."""
    _import_sources()
    load_announced("data")
    return sorted(DATASETS)


def get_dataset(name: str) -> type[DataOptions]:
    """Class of the data set called ``name``.

    Raises:
        ConfigError: If there is none; the sentence names those there are.
    """
    _import_sources()
    if name not in DATASETS:
        check_choice("data.name", name, available_datasets())
    return DATASETS[name]


def default_options(name: str, **changes: Any) -> DataOptions:
    """Give the options that suit a data set: its size, channel statistics and views.

    Args:
        name: The data set.
        **changes: Options to set otherwise.

    Returns:
        The options.

    Raises:
        ConfigError: If there is no such data set, it does not read an option, or a value is wrong.

    Example:
        >>> default_options("cifar10", root="data", download=True).image_size
        32
    """
    cls = get_dataset(name)
    known = cls.__dataclass_fields__
    for key, value in changes.items():
        if key not in known:
            read = [f"data.{own}" for own in cls.own_options()] or ["no location"]
            raise ConfigError(
                f"data.{key}={value} is not read by data.name={name}, which reads "
                f"{' and '.join(read)}; leave data.{key} out."
            )
    return cls(**changes)


def earlier_options(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Options that an earlier build wrote, as those of today.

    Every data set had the keys of all then; those that it does not read are left out. Images were
    not turned upright.

    Args:
        stored: The node ``data`` of a ``config.yaml``.
    """
    known = get_dataset(str(stored["name"])).__dataclass_fields__
    before = {"exif": False} | dict(stored)
    unread = {"root", "train_dir", "val_dir", "val_fraction", "download", "on_error", "verify"}
    left = {*unread, "exif"} - set(known)
    return {key: value for key, value in before.items() if key not in left}


def load_datasets(options: DataOptions) -> Datasets:
    """Load the images that the options name, and check them; see `DataOptions.load`."""
    return options.load()


@cache
def _import_sources() -> None:
    """Import every file of ``erssl/data/sources``, each of which registers its data sets."""
    sources = importlib.import_module("erssl.data.sources")
    for module in pkgutil.iter_modules(sources.__path__):
        importlib.import_module(f"erssl.data.sources.{module.name}")
