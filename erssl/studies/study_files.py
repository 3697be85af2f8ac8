"""The YAML files of studies and scales."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from erssl.errors import ConfigError
from erssl.yaml_text import read_settings_file


def study_folder() -> Path:
    """Where the studies lie that come with erssl."""
    return Path(str(files("erssl.configs"))) / "study"


def available_studies() -> tuple[str, ...]:
    """Names of the studies that come with erssl."""
    return tuple(sorted(file.stem for file in study_folder().glob("*.yaml")))


def check_keys(said: Mapping[str, Any], known: set[str], about: str) -> None:
    """Refuse a key that is none, with a ConfigError."""
    if unknown := sorted(set(said) - known):
        raise ConfigError(f"{about} has no key {unknown[0]!r}; it has {', '.join(sorted(known))}.")


def read_file(file: Path) -> dict[str, Any]:
    """The keys of a file.

    Raises:
        ConfigError: If there is none, or it holds no keys.
    """
    if not file.exists():
        raise ConfigError(
            f"There is no file {file}; give the path of a study, or one of "
            f"{', '.join(available_studies())}."
        )
    try:
        said = read_settings_file(file)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"{file} cannot be read as a study ({reason}).") from error
    if not isinstance(said, dict):
        raise ConfigError(f"{file} is no study: it holds no keys.")
    return said
