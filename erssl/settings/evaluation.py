"""The settings of the evaluation commands: what may be said, and what it becomes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from pytorch_lightning import Trainer

from erssl.errors import ConfigError
from erssl.evaluation.cache import StoredType
from erssl.evaluation.classifier import ClassifierOptions
from erssl.evaluation.storage import Storage
from erssl.limits import check_count
from erssl.run.plots import Plots
from erssl.settings.compose import FREE, Schema, compose_config, leaves, schema_from
from erssl.settings.fitting import Preset, read_preset
from erssl.settings.hints import OF_DATA, unknown_setting
from erssl.settings.keys import OWN_TRAINER_KEYS, takes_data
from erssl.settings.loggers import LoggerSettings, check_loggers
from erssl.settings.trainer import check_trainer

PIXELS = "pixels"  # checkpoint=pixels: no backbone at all
# Beside what every command of ours keeps to itself: each process validates on all images, at the
# end of an epoch.
_OWN_TRAINER_KEYS = (
    *OWN_TRAINER_KEYS,
    "use_distributed_sampler",
    "fast_dev_run",
    "overfit_batches",
    "barebones",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "val_check_interval",
)
# What ends a training within an epoch or before the last: an evaluation is all of its epochs.
_LIMITS = ("max_steps", "max_time", "min_steps", "min_epochs", "limit_train_batches")
# What linear mode=cached takes of the trainer: the devices; it has a loop of its own.
_CACHED_TRAINER = ("accelerator", "devices", "num_nodes", "strategy")
_BETWEEN = math.sqrt(0.01 * 0.1)  # a share above it is nearer to ten per cent than to one


@dataclass(frozen=True, kw_only=True)
class BackboneSettings:
    """What every command reads that evaluates a backbone."""

    checkpoint: str | None
    arch: str | None
    layout: str | None
    prefix: str | None
    weights: str | None
    allow_partial: bool
    seed: int
    overwrite: bool

    def __post_init__(self) -> None:
        """Refuse values that make no evaluation."""
        if not self.checkpoint:
            raise ConfigError(
                "An evaluation needs checkpoint=<a run directory, a checkpoint, zoo:<name>, "
                "random:<run or architecture>, or pixels>."
            )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must lie in [0, 2**32) but is {self.seed}.")


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(BackboneSettings):
    """What every evaluation reads: ``configs/evaluate.yaml``."""

    run_dir: str | None
    plots: bool | Plots

    @property
    def plots_format(self) -> Plots | None:
        """Format of the figures beside PNG; ``None`` where none are asked for."""
        return self.plots if isinstance(self.plots, str) else "png" if self.plots else None

    @classmethod
    def schema(cls) -> Schema:
        """Keys that the command takes, and what each takes."""
        return schema_from(cls)

    @classmethod
    def complete(cls, config: dict[str, Any], protocol: str, own: Sequence[str]) -> dict[str, Any]:
        """Give the fields of the settings from the composed keys.

        Args:
            config: Values of the keys, with those that nobody has overridden.
            protocol: Name of the command.
            own: The overrides, those about data left out.

        Raises:
            ConfigError: If an override does nothing beside the others.
        """
        return config


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """How features are taken once: ``configs/features.yaml``."""

    feature_batch_size: int
    features_precision: Literal["float32", "bf16"]
    features_storage: Storage
    features_dtype: StoredType
    cache: bool
    cache_dir: str | None


@dataclass(frozen=True, kw_only=True)
class KnnSettings(EvaluationSettings, FeatureSettings):
    """``configs/knn.yaml``."""

    preset: str
    k: int
    temperature: float
    whiten: bool

    def __post_init__(self) -> None:
        """Refuse values that no protocol takes."""
        super().__post_init__()
        if self.k < 1 or not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"kNN needs k of at least 1 and temperature above 0 but has {self.k} and "
                f"{self.temperature}."
            )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(ClassifierOptions, EvaluationSettings, LoggerSettings):
    """What evaluations read that train: ``configs/training.yaml`` and the preset.

    ``chosen`` is no key: it says which values are the preset's.

    Attributes:
        auto_presets: Presets that ``preset=auto`` chooses among: the one of few images, and where
            there is another that of many.
        frozen: Whether the backbone stays as it is.
    """

    auto_presets: ClassVar[tuple[str, ...]] = ()
    frozen: ClassVar[bool] = False

    preset: str
    seeds: int
    resume: bool
    trainer: dict[str, Any]
    chosen: Preset = field(default_factory=Preset)

    def __post_init__(self) -> None:
        """Refuse values that train nothing."""
        ClassifierOptions.__post_init__(self)
        EvaluationSettings.__post_init__(self)
        check_loggers(self.logger, self.logger_options)
        check_trainer(self.trainer)
        check_count("epochs", self.epochs)
        if not 1 <= self.seeds <= 2**32 - self.seed:
            raise ConfigError(
                f"seeds must be at least 1 and seed + seeds at most 2**32 but seeds={self.seeds}."
            )
        if self.resume and self.run_dir is None:
            raise ConfigError("resume=true needs run_dir=<the evaluation to continue>.")

    @classmethod
    def schema(cls) -> Schema:
        """Keys that the command takes: those of the trainer too, but for what it does itself."""
        schema = schema_from(cls)
        schema["logger_options"] = FREE
        schema["trainer"] = schema_from(Trainer, without=(*_OWN_TRAINER_KEYS, *_LIMITS))
        del schema["chosen"]
        if cls.frozen:
            del schema["backbone_lr"]
        return schema

    @classmethod
    def complete(cls, config: dict[str, Any], protocol: str, own: Sequence[str]) -> dict[str, Any]:
        """Add what the preset says."""
        said = frozenset(override.partition("=")[0] for override in own)
        chosen = read_preset(protocol, config["preset"], said, cls.auto_presets)
        return {**config, "crop_scale": tuple(config["crop_scale"]), "chosen": chosen}


@dataclass(frozen=True, kw_only=True)
class LinearSettings(TrainingSettings, FeatureSettings):
    """``configs/linear.yaml``."""

    auto_presets = ("lightly", "mveb")
    frozen = True

    mode: Literal["augmented", "cached"]

    @classmethod
    def complete(cls, config: dict[str, Any], protocol: str, own: Sequence[str]) -> dict[str, Any]:
        """Refuse what features that are taken once leave unread."""
        if config["mode"] == "cached":
            _refuse_unread(own)
        return super().complete(config, protocol, own)


@dataclass(frozen=True, kw_only=True)
class SemiSettings(TrainingSettings):
    """``configs/semi.yaml``."""

    auto_presets = ("vicreg", "mveb")

    fraction: str
    subset_seed: int
    one_percent: tuple[float, float]
    ten_percent: tuple[float, float]
    said_rates: tuple[float | None, float | None]

    @classmethod
    def schema(cls) -> Schema:
        """Keys that the command takes; the rates may be left to the preset."""
        schema = super().schema()
        schema["head_lr"] = float | None
        del schema["said_rates"]
        return schema

    @classmethod
    def complete(cls, config: dict[str, Any], protocol: str, own: Sequence[str]) -> dict[str, Any]:
        """Keep the rates that were said until the share of the labels is known."""
        rates = {"said_rates": (config["backbone_lr"], config["head_lr"])}
        unknown = {"backbone_lr": 0.0, "head_lr": 0.0}
        return super().complete({**config, **rates, **unknown}, protocol, own)

    @property
    def share(self) -> float | None:
        """The fraction as a number; ``None`` where it names a file."""
        try:
            return float(self.fraction)
        except ValueError:
            return None

    def with_rates(self, share: float) -> SemiSettings:
        """The settings with the preset's rates of the nearer fraction, where none are said.

        Args:
            share: Part of the training images that is used.
        """
        preset = self.ten_percent if share > _BETWEEN else self.one_percent
        pairs = zip(self.said_rates, preset, strict=True)
        backbone_lr, head_lr = (own if own is not None else rate for own, rate in pairs)
        return dataclasses.replace(self, backbone_lr=backbone_lr, head_lr=head_lr)


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings):
    """``configs/finetune.yaml``."""

    auto_presets = ("lightly",)

    @classmethod
    def schema(cls) -> Schema:
        """Keys that the command takes; the backbone has a rate."""
        return {**super().schema(), "backbone_lr": float}


S = TypeVar("S", bound=EvaluationSettings)


def read_protocol(
    protocol: str, settings_class: type[S], overrides: Sequence[str]
) -> tuple[S, list[str]]:
    """Settings of an evaluation, and the overrides about data, which the run may have a say in.

    There are none of the latter where the command does not take ``data=``.

    Args:
        protocol: Name of the command and of its YAML file.
        settings_class: What the settings become.
        overrides: ``key=value``, as on the command line.

    Raises:
        ConfigError: If a key or value is unknown.
    """
    reads_data = takes_data(protocol)
    about_data = [
        override
        for override in overrides
        if reads_data and override.partition("=")[0].partition(".")[0] == "data"
    ]
    own = [override for override in overrides if override not in about_data]
    schema = settings_class.schema()
    folders = {"preset": f"preset/{protocol}", "trainer": "trainer"}
    groups = {key: folder for key, folder in folders.items() if key in schema}
    of_data = OF_DATA if reads_data else ()
    for override in own:
        key = override.partition("=")[0].partition(".")[0]
        if key not in schema:
            raise ConfigError(unknown_setting(override, {*leaves(schema), *of_data}))
        setting = override.partition("=")[0].removeprefix("trainer.")
        if key == "trainer" and setting in _LIMITS:
            raise ConfigError(
                f"trainer.{setting} would leave out a part of the training, and an evaluation is "
                "all of its epochs; set epochs, or stop it and go on with resume=true."
            )
    config = compose_config(protocol, own, lambda _: schema, groups)
    return settings_class(**settings_class.complete(config, protocol, own)), about_data


def _refuse_unread(overrides: Sequence[str]) -> None:
    for override in overrides:
        key, _, rest = override.partition("=")[0].partition(".")
        unread = key == "trainer" and rest and rest not in _CACHED_TRAINER
        if unread or key in ("flip", "crop_scale"):
            raise ConfigError(
                f"{override.partition('=')[0]} does nothing with mode=cached, which trains on the "
                "features of whole images; leave it out, or set mode=augmented."
            )


def resolved(settings: EvaluationSettings, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings as ``config.yaml`` has them.

    Args:
        settings: Of the evaluation.
        data: Options of its images, where it takes ``data=``.
    """
    values = dataclasses.asdict(settings)
    values.pop("chosen", None)  # what it stands for is in the other values
    return values if data is None else {**values, "data": dict(data)}
