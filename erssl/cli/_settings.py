"""The settings of a pretraining run: what may be said, and what it becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Trainer

from erssl.cli._config import FREE, Schema, compose_config, schema_from
from erssl.data import DataOptions, ViewOptions, default_options
from erssl.errors import ConfigError
from erssl.methods import OptimizerOptions, get_method
from erssl.models import BackboneOptions

# What the command itself gives to a method's constructor and to Lightning's Trainer.
_OWN_METHOD_KEYS = (
    *("batch_size_per_device", "num_classes", "backbone", "optimizer"),
    *("channels_last", "compile"),
)
_OWN_TRAINER_KEYS = (
    *("max_epochs", "logger", "callbacks", "default_root_dir", "enable_progress_bar"),
    *("enable_checkpointing", "enable_model_summary", "plugins", "profiler", "model_registry"),
)


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured beside training.

    Attributes:
        knn_k: Neighbours of kNN (lightly's benchmarks: 200).
        knn_temperature: Temperature of its votes (0.1; DINO: 0.07).
        every_n_epochs: Epochs between points of the kNN curve; 0 for none.
        linear: Fit logistic regression to the final features.
        untrained: Measure the same backbone before training too.
    """

    knn_k: int = 200
    knn_temperature: float = 0.1
    every_n_epochs: int = 1
    linear: bool = True
    untrained: bool = True

    def __post_init__(self) -> None:
        """Refuse values that no protocol takes."""
        if self.knn_k < 1 or not self.knn_temperature > 0 or self.every_n_epochs < 0:
            raise ConfigError(
                "evaluation needs knn_k of at least 1, knn_temperature above 0 and every_n_epochs "
                f"of at least 0 but has {self.knn_k}, {self.knn_temperature} and "
                f"{self.every_n_epochs}."
            )


@dataclass(frozen=True)
class PretrainSettings:
    """A pretraining run; every field is a key of ``configs/pretrain.yaml``."""

    method: dict[str, Any]
    data: DataOptions
    backbone: BackboneOptions
    optimizer: OptimizerOptions
    trainer: dict[str, Any]
    evaluation: EvaluationOptions
    epochs: int
    batch_size: int
    seed: int
    run_dir: str | None
    resume: bool
    overwrite: bool
    channels_last: bool
    compile: bool

    def __post_init__(self) -> None:
        """Refuse values that make no run."""
        for key, least in (("epochs", 1), ("batch_size", 2), ("seed", 0)):
            if getattr(self, key) < least:
                raise ConfigError(f"{key} must be at least {least} but is {getattr(self, key)}.")
        if self.optimizer.warmup_epochs >= self.epochs:
            raise ConfigError(
                f"optimizer.warmup_epochs={self.optimizer.warmup_epochs} does not fit into "
                f"epochs={self.epochs}; set optimizer.warmup_epochs to less."
            )
        if self.resume and self.run_dir is None:
            raise ConfigError("resume=true needs run_dir=<the run to continue>.")


def read_settings(words: list[str]) -> tuple[PretrainSettings, dict[str, Any]]:
    """Settings from words such as ``method=mveb``, and their fully resolved config.

    Raises:
        ConfigError: If a key or value is unknown.
    """
    config = compose_config("pretrain", words, _schema)
    views = config["data"].pop("views", {})
    data = default_options(**config["data"])
    if views:
        if "recipe" not in views:
            views["recipe"] = data.views.recipe
        data = dataclasses.replace(data, views=ViewOptions(**views))
    settings = PretrainSettings(
        **config
        | {
            "data": data,
            "backbone": BackboneOptions(**config["backbone"]),
            "optimizer": OptimizerOptions(**config["optimizer"]),
            "evaluation": EvaluationOptions(**config["evaluation"]),
        }
    )
    return settings, dataclasses.asdict(settings)


def _schema(config: Mapping[str, Any]) -> Schema:
    """What the composed config may hold; the method's keys are those of its class."""
    name = str(config["method"]["name"])
    method = schema_from(get_method(name), without=_OWN_METHOD_KEYS)
    backbone = schema_from(BackboneOptions) | {"options": FREE}
    return schema_from(PretrainSettings) | {
        "method": {"name": str, **method},
        "data": schema_from(DataOptions),
        "backbone": backbone,
        "trainer": schema_from(Trainer, without=_OWN_TRAINER_KEYS),
    }
