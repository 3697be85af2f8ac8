"""Which loggers a training reports to: what may be said, and what is refused before any work."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytorch_lightning.loggers import Logger

from erssl.errors import ConfigError, installing
from erssl.settings.hints import nearest

CSV, TENSORBOARD, WANDB, MLFLOW = "csv", "tensorboard", "wandb", "mlflow"
# Of each: the packages without which it does not work.
_NEEDS: dict[str, tuple[str, ...]] = {
    CSV: (),
    TENSORBOARD: ("tensorboard",),
    WANDB: ("wandb",),
    MLFLOW: ("mlflow",),
}


class LoggerError(ConfigError):
    """A logger that does not start."""


@dataclass(frozen=True, kw_only=True)
class LoggerSettings:
    """What every training reads: ``configs/loggers.yaml``."""

    logger: str | list[str] | None = None
    logger_options: dict[str, Any] = field(default_factory=dict)


def logger_names(asked: str | list[str] | None) -> tuple[str, ...]:
    """The loggers that ``logger=`` names, ``metrics.csv`` first, which every run has.

    Raises:
        ConfigError: If one is unknown or its package is not installed.
    """
    if asked is None:
        return (CSV, TENSORBOARD) if importlib.util.find_spec(TENSORBOARD) else (CSV,)
    names = [asked] if isinstance(asked, str) else list(asked)
    for name in names:
        if "." in name:
            logger_class(name)
        elif name not in _NEEDS:
            hint = nearest(name, _NEEDS)
            raise ConfigError(
                f"logger={name} is unknown; {hint.rstrip('.')}, or the import path of a Lightning "
                "logger."
            )
        elif missing := [each for each in _NEEDS[name] if not importlib.util.find_spec(each)]:
            raise ConfigError(
                f"logger={name} needs {missing[0]}; {installing(name)}, or leave it out."
            )
    return tuple(dict.fromkeys((CSV, *names)))


def logger_class(path: str) -> type[Logger]:
    """The class of an import path, ``package.module.Class``.

    Raises:
        ConfigError: If there is none, or it is no Lightning logger.
    """
    module, _, name = path.rpartition(".")
    try:
        named: Any = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a module of somebody else raises when it is imported
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"logger={path} cannot be imported ({type(error).__name__}: {reason}); give "
            "package.module.Class."
        ) from error
    if not (inspect.isclass(named) and issubclass(named, Logger)):
        raise ConfigError(
            f"logger={path} is no class of pytorch_lightning.loggers.Logger; give one that is."
        )
    return named


def check_loggers(asked: str | list[str] | None, options: Mapping[str, Any]) -> None:
    """Refuse loggers that cannot be, and options of others than those.

    Raises:
        ConfigError: If a logger is unknown or not installed, or an option is of none of them.
    """
    names = logger_names(asked)
    keys = {option_key(name) for name in names} - {CSV, TENSORBOARD}
    for key, value in options.items():
        if key not in keys:
            raise ConfigError(
                f"logger_options.{key} is read by none of the loggers {', '.join(names)}; "
                f"{nearest(key, keys) if keys else 'leave it out.'}"
            )
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"logger_options.{key}={value} is a value but holds options; give "
                f"logger_options.{key}.<option>={value}."
            )


def option_key(name: str) -> str:
    """What a logger's options are called: its name, or that of its class."""
    return name.rpartition(".")[2]
