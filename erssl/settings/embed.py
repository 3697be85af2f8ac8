"""The settings of ``erssl embed``: what may be said, and what is refused before any work."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from erssl.errors import ConfigError
from erssl.evaluation.similar import MapKind, check_map
from erssl.paths import user_path
from erssl.settings.compose import Schema, compose_config, group_options, leaves, schema_from
from erssl.settings.evaluation import PIXELS, BackboneSettings
from erssl.settings.hints import OF_DATA, unknown_setting

_SHARE = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)
SUFFIXES = (".npy", ".safetensors", ".parquet")


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(BackboneSettings):
    """``configs/embed.yaml``."""

    output: str | None
    on: Literal["features", "patches", "embedding"]
    split: Literal["train", "val", "all"]
    features_dtype: Literal["float32", "float16"]
    features_precision: Literal["float32", "bf16"]
    feature_batch_size: int
    neighbors: int | None
    queries: int | list[str]
    duplicates: float
    map: MapKind
    process: str | None

    def __post_init__(self) -> None:
        """Refuse values that write no features."""
        if not self.checkpoint:
            raise ConfigError(
                "erssl embed needs checkpoint=<a run directory, a checkpoint, zoo:<name>, "
                "random:<run or architecture>, or pixels>."
            )
        if not self.output:
            raise ConfigError(
                "erssl embed needs output=<the file of features, such as features.npy>."
            )
        super().__post_init__()
        if self.feature_batch_size < 1:
            raise ConfigError(
                f"feature_batch_size must be at least 1 but is {self.feature_batch_size}."
            )
        if self.checkpoint == PIXELS and self.on != "features":
            raise ConfigError(f"checkpoint=pixels has no {self.on}; leave on={self.on} out.")
        if not user_path(self.output).name or self.path.suffix not in SUFFIXES:
            raise ConfigError(
                f"output={self.output} must end in one of {', '.join(SUFFIXES)}, or in none for "
                ".npy."
            )

        self._check_page()
        if self.process is not None and self.share is None:
            raise ConfigError(
                f"process={self.process} is no share of the work; give process=0/4, 1/4, 2/4 and "
                "3/4 to four processes."
            )

    def _check_page(self) -> None:
        """Refuse what makes no page of neighbours."""
        if self.neighbors is None:
            return
        if self.neighbors < 1:
            raise ConfigError(f"neighbors must be at least 1 but is {self.neighbors}.")
        if isinstance(self.queries, int) and self.queries < 1:
            raise ConfigError(f"queries must be at least 1 but is {self.queries}.")
        if not -1 <= self.duplicates <= 1:
            raise ConfigError(
                f"duplicates must be a cosine between -1 and 1 but is {self.duplicates}."
            )
        if self.on == "patches":
            raise ConfigError(
                "neighbors needs one vector an image, and on=patches gives many; leave one out."
            )
        check_map(self.map)

    @property
    def page(self) -> Path | None:
        """The page of neighbours; ``None`` where none is asked for."""
        return self.path.with_suffix(".html") if self.neighbors is not None else None

    @property
    def share(self) -> tuple[int, int] | None:
        """Number of this process and of all that share the work; ``None`` where it is alone."""
        match = _SHARE.fullmatch(self.process or "")
        number, count = map(int, match.groups()) if match else (0, 0)
        return (number, count) if number < count else None

    @property
    def path(self) -> Path:
        """The file of features; without a suffix it is ``.npy``."""
        path = user_path(str(self.output))
        return path if path.suffix else path.with_name(f"{path.name}.npy")


def read_embed(overrides: Sequence[str]) -> tuple[EmbedSettings, list[str]]:
    """Settings of ``erssl embed``, and the overrides about data, which the run may have a say in.

    ``data=<folder>`` stands for ``data=imagefolder data.train_dir=<folder>``.

    Raises:
        ConfigError: If a key or value is unknown, or makes no features.
    """
    schema = schema_from(EmbedSettings)
    own, about_data = with_folder(overrides, schema)
    config = compose_config("embed", own, lambda _: schema, {})
    return EmbedSettings(**config), about_data


def with_folder(overrides: Sequence[str], schema: Schema) -> tuple[list[str], list[str]]:
    """Overrides of a command's own keys and those about data, where ``data=`` may be a folder.

    Raises:
        ConfigError: If a key is neither.
    """
    about_data: list[str] = []
    own: list[str] = []
    for override in overrides:
        key, _, value = override.partition("=")
        first = key.partition(".")[0]
        if first != "data" and first not in schema:
            raise ConfigError(unknown_setting(override, {*leaves(schema), *OF_DATA}, "data"))
        if key == "data" and value not in group_options("data") and os.path.isdir(user_path(value)):
            # of a run on folders, its validation and labelled images are none of these
            about_data[:0] = ["data.val_dir=null", "data.labelled_dir=null"]
            about_data += ["data=imagefolder", f"data.train_dir={value}"]
        else:
            (about_data if first == "data" else own).append(override)
    return own, about_data
