"""The settings of ``erssl transfer``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from erssl.downstream.transfer.datasets import TRANSFER_DATASETS
from erssl.downstream.transfer.finetune import FinetuneOptions
from erssl.downstream.transfer.solver import MAX_ITER, TOLERANCE
from erssl.errors import ConfigError
from erssl.limits import check_count, check_processes
from erssl.settings.compose import compose_config, schema_from
from erssl.settings.evaluation import EvaluationSettings, FeatureSettings
from erssl.settings.hints import nearest, unknown_setting

_LISTS = ("learning_rates", "weight_decays")
_FINETUNE = ("steps", "batch_size", "learning_rates", "weight_decays", "momentum")
_READ_BY = {  # what one mode reads and the other does not
    "linear": ("tolerance", "max_iter", *(field.name for field in fields(FeatureSettings))),
    "finetune": (*_FINETUNE, "verify"),
}


@dataclass(frozen=True, kw_only=True)
class TransferSettings(EvaluationSettings, FeatureSettings):
    """``configs/transfer.yaml``."""

    preset: str
    mode: Literal["linear", "finetune"]
    datasets: list[str] | str
    data_root: str | None
    download: bool
    partial_ok: bool
    seeds: int
    resume: bool
    num_workers: int | None
    tolerance: float
    max_iter: int
    steps: int
    batch_size: int
    learning_rates: list[float]
    weight_decays: list[float]
    momentum: float
    jobs: int | None
    points: list[int] | None
    table: bool
    verify: bool

    def __post_init__(self) -> None:
        """Refuse values that transfer nothing."""
        super().__post_init__()
        for name in self.names:
            if name not in TRANSFER_DATASETS:
                raise ConfigError(
                    f"datasets={name} is unknown; {nearest(name, [*TRANSFER_DATASETS, 'all'])}"
                )
        if not self.names:
            raise ConfigError("datasets=[] names none; give all, or a list such as [dtd,pets].")
        if self.data_root is None:
            raise ConfigError("erssl transfer needs data_root=<the folder of the data sets>.")
        if not 1 <= self.seeds <= 2**32 - self.seed:
            raise ConfigError(
                f"seeds must be at least 1 and seed + seeds at most 2**32 but seeds={self.seeds}."
            )
        if self.max_iter < 1 or not 0 < self.tolerance < math.inf:
            raise ConfigError(
                "max_iter must be at least 1 and tolerance above 0 but they are "
                f"{self.max_iter} and {self.tolerance}."
            )
        if self.resume and self.run_dir is None:
            raise ConfigError("resume=true needs run_dir=<the suite to go on with>.")
        if self.plots is True:
            raise ConfigError(
                "erssl transfer draws transfer.png anyway; leave plots out, or set it to pdf or "
                "svg for that format too."
            )
        check_count("steps", self.steps)
        for key in ("jobs", "num_workers"):
            check_processes(key, getattr(self, key) or 0)
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"jobs={self.jobs} must be at least 1.")
        last = len(self.grid.grid) - 1
        if self.points is not None:
            self._check_points(self.points, last)

    def _check_points(self, points: list[int], last: int) -> None:
        if self.mode != "finetune":
            raise ConfigError("points= are of the grid of mode=finetune; leave it out.")
        if not points or min(points) < 0 or max(points) > last:
            raise ConfigError(f"points={points} must be numbers of the grid, from 0 to {last}.")

    @property
    def as_published(self) -> bool:
        """Whether trainings are those of the papers; of a convex problem all optima are."""
        if self.mode == "finetune":
            return self.grid == FinetuneOptions()
        converged = self.tolerance <= TOLERANCE and self.max_iter >= MAX_ITER
        return converged and self.features_precision == "float32"

    @property
    def names(self) -> list[str]:
        """The data sets, each once, in the order that they are said in."""
        said = [self.datasets] if isinstance(self.datasets, str) else self.datasets
        parts = [list(TRANSFER_DATASETS) if name == "all" else [name] for name in said]
        return list(dict.fromkeys(name for part in parts for name in part))

    @property
    def grid(self) -> FinetuneOptions:
        """What fine-tuning tries."""
        own = {key: getattr(self, key) for key in _FINETUNE}
        return FinetuneOptions(**own | {key: tuple(own[key]) for key in _LISTS})


def read_transfer(overrides: Sequence[str]) -> TransferSettings:
    """Settings of the suite.

    Raises:
        ConfigError: If a key or value is unknown.
    """
    schema = schema_from(TransferSettings)
    for override in overrides:
        key = override.partition("=")[0]
        if key.partition(".")[0] not in schema:
            raise ConfigError(unknown_setting(override, list(schema), "data_root"))
    config = compose_config(
        "transfer", list(overrides), lambda _: schema, {"preset": "preset/transfer"}
    )
    settings = TransferSettings(**config)
    for key in (override.partition("=")[0] for override in overrides):
        for mode, keys in _READ_BY.items():
            if key in keys and mode != settings.mode:
                raise ConfigError(
                    f"{key} does nothing with mode={settings.mode}; leave it out, or set "
                    f"mode={mode}."
                )
    return settings
