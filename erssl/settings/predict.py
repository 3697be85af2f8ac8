"""The settings of ``erssl predict``: what may be said, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from erssl.errors import ConfigError
from erssl.limits import check_least
from erssl.paths import user_path
from erssl.run.plots import Plots
from erssl.settings.compose import compose_config, schema_from
from erssl.settings.embed import with_folder


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """``configs/predict.yaml``."""

    checkpoint: str | None
    output: str
    split: Literal["train", "val", "all"] | None
    top: int | None
    sheet: int
    plots: Plots
    feature_batch_size: int
    overwrite: bool

    def __post_init__(self) -> None:
        """Refuse values that predict nothing."""
        if not self.checkpoint:
            raise ConfigError(
                "erssl predict needs checkpoint=<the folder of a finished erssl linear, semi or "
                "finetune>."
            )
        check_least(vars(self), {"top": 1, "sheet": 0, "feature_batch_size": 1})
        if self.path.suffix != ".csv" or not self.path.stem:
            raise ConfigError(f"output={self.output} must be a file that ends in .csv.")

    @property
    def path(self) -> Path:
        """The table of predictions."""
        return user_path(self.output)

    @property
    def sheet_path(self) -> Path | None:
        """The contact sheet; ``None`` where none is asked for."""
        return self.path.with_suffix(".png") if self.sheet else None


def read_predict(overrides: Sequence[str]) -> tuple[PredictSettings, list[str]]:
    """Settings of ``erssl predict``, and the overrides about data, which the run has a say in.

    Raises:
        ConfigError: If a key or value is unknown, or predicts nothing.
    """
    schema = schema_from(PredictSettings)
    own, about_data = with_folder(overrides, schema)
    config = compose_config("predict", own, lambda _: schema, {})
    return PredictSettings(**config), about_data
