"""The settings of ``erssl segment``: what may be said, and what is refused before any work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from erssl.errors import ConfigError
from erssl.limits import check_count, check_least, check_processes
from erssl.settings.compose import compose_config
from erssl.settings.evaluation import PIXELS, EvaluationSettings

# Of a training that is resumed: where and how it runs, not what it computes.
MAY_CHANGE = (
    "checkpoint",  # whose weights have a digest, as have the masks
    "data_root",
    "verify",
    "checkpoint_period",
)
# What inputs=windows alone reads, as it is where nobody says it: as in configs/segment.yaml.
OF_WINDOWS: dict[str, Any] = {
    "scale_range": [0.5, 2.0],
    "stride": None,
    "scales": [1.0],
    "evaluate_mirrored": False,
}
_MOST_CLASSES = 255  # of a mask of bytes, where 255 is no class


@dataclass(frozen=True, kw_only=True)
class SegmentSettings(EvaluationSettings):
    """``configs/segment.yaml``."""

    data_root: str | None
    masks: Literal["voc", "coco"]
    year: int
    train_list: str
    val_list: str
    class_names: list[str] | None
    image_size: int | None
    inputs: Literal["square", "windows"]
    scale_range: tuple[float, float]
    stride: int | None
    scales: list[float]
    evaluate_mirrored: bool
    batch_norm: bool
    batch_size: int
    iterations: int
    learning_rate: float
    weight_decay: float
    warmup_fraction: float
    flip: bool
    checkpoint_period: int
    seeds: int
    num_workers: int | None
    verify: bool
    resume: bool

    def __post_init__(self) -> None:
        """Refuse values that segment nothing."""
        super().__post_init__()
        if self.checkpoint == PIXELS:
            raise ConfigError("checkpoint=pixels has no patch features; name a backbone.")
        if self.data_root is None:
            raise ConfigError(
                "erssl segment needs data_root=<the folder of VOCdevkit, or with masks=coco that "
                "of annotations, train2017 and val2017>."
            )
        if self.resume and self.run_dir is None:
            raise ConfigError("resume=true needs run_dir=<the evaluation to continue>.")
        self._check_classes()
        self._check_numbers()
        self._check_windows()

    def _check_classes(self) -> None:
        names = self.class_names
        if names is None:
            return
        if self.masks == "coco":
            raise ConfigError("class_names is for masks=voc; COCO's file names its categories.")
        if not 2 <= len(names) <= _MOST_CLASSES or len(set(names)) != len(names):
            raise ConfigError(
                f"class_names must be 2 to {_MOST_CLASSES} different names, the background first, "
                f"but has {len(names)}, {len(set(names))} of them different."
            )

    def _check_numbers(self) -> None:
        least = {"batch_size": 1, "iterations": 1, "checkpoint_period": 1, "seeds": 1}
        least |= {"image_size": 1, "num_workers": 0, "year": 1, "stride": 1}
        check_least(vars(self), least)
        check_count("iterations", self.iterations)
        check_processes("num_workers", self.num_workers or 0)
        if self.seed + self.seeds > 2**32:
            raise ConfigError(f"seed + seeds must be at most 2**32 but seeds={self.seeds}.")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(
                f"learning_rate must be a number above 0 but is {self.learning_rate:g}."
            )
        if not 0 <= self.weight_decay < math.inf or not 0 <= self.warmup_fraction <= 1:
            raise ConfigError(
                "weight_decay must be a number of at least 0 and warmup_fraction lie in [0, 1] but "
                f"they are {self.weight_decay:g} and {self.warmup_fraction:g}."
            )

    def _check_windows(self) -> None:
        if self.inputs == "square":
            for key, value in OF_WINDOWS.items():
                given = getattr(self, key)
                if (list(given) if isinstance(given, tuple) else given) != value:
                    raise ConfigError(f"{key} is read with inputs=windows alone; set that too.")
        low, high = self.scale_range
        if not 0 < low <= high < math.inf:
            raise ConfigError(
                f"scale_range=[{low:g},{high:g}] must be two numbers with 0 < low <= high."
            )
        if not self.scales or not all(1 <= scale < math.inf for scale in self.scales):
            raise ConfigError(
                f"scales={self.scales} must be numbers from 1 up, since an image is never smaller "
                "than a window."
            )
        if self.stride and self.image_size and self.stride > self.image_size:
            raise ConfigError(
                f"stride={self.stride} leaves pixels between windows of image_size="
                f"{self.image_size}; set it to that or less."
            )


def read_segment(overrides: Sequence[str]) -> SegmentSettings:
    """Read the settings from the overrides of the command line.

    Raises:
        ConfigError: If a key or value is unknown, or makes no evaluation.
    """
    schema = SegmentSettings.schema()
    config = compose_config("segment", list(overrides), lambda _: schema, {})
    return SegmentSettings(**{**config, "scale_range": tuple(config["scale_range"])})
