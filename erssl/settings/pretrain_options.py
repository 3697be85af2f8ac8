"""What may be said of a pretraining run, and what is refused of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from erssl.data import DataOptions
from erssl.errors import ConfigError
from erssl.evaluation.lens_quantities import KAPPAS
from erssl.limits import check_count, check_least
from erssl.methods import OptimizerOptions
from erssl.models import BackboneOptions
from erssl.run.plots import Plots
from erssl.settings.start import check_start
from erssl.settings.trainer import check_trainer


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured beside training.

    Attributes:
        knn_k: Neighbours of kNN (lightly's benchmarks: 200).
        knn_temperature: Temperature of its votes (0.1; DINO: 0.07).
        every_n_epochs: Epochs between points of the kNN curve; 0 for none.
        whiten: Read kNN at the end of whitened features too
            (:func:`erssl.evaluation.whitened`), as ``knn_whitened_top1``.
        linear: Fit logistic regression to the final features.
        untrained: Measure the same backbone before training too.
        probes: Further labelled images by name, each with a kNN curve of its own: a folder, or a
            data set and its folder, ``cifar10:data``.
    """

    knn_k: int = 200
    knn_temperature: float = 0.1
    every_n_epochs: int = 2
    whiten: bool = False
    linear: bool = True
    untrained: bool = True
    probes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values that no protocol takes."""
        if self.knn_k < 1 or not self.knn_temperature > 0 or self.every_n_epochs < 0:
            raise ConfigError(
                "evaluation needs knn_k of at least 1, knn_temperature above 0 and every_n_epochs "
                f"of at least 0 but has {self.knn_k}, {self.knn_temperature} and "
                f"{self.every_n_epochs}."
            )


@dataclass(frozen=True)
class LensOptions:
    """What the lens reads while a run goes on.

    Attributes:
        probe_size: Images whose two views are read; ``None`` takes 256, or all where there are
            fewer; 0 for no lens.
        every_n_steps: Steps between readings; ``None`` keeps them below 2 % of the training.
        kappas: Concentrations at which the density is read.
        on_collapse: What is done when entropy or rank is seen at its floor.
    """

    probe_size: int | None = None
    every_n_steps: int | None = None
    kappas: list[float] = field(default_factory=lambda: list(KAPPAS))
    on_collapse: Literal["warn", "stop", "ignore"] = "warn"


@dataclass(frozen=True)
class PretrainSettings:
    """A pretraining run; every field is a key of ``configs/pretrain.yaml``."""

    method: dict[str, Any]
    data: DataOptions
    backbone: BackboneOptions
    optimizer: OptimizerOptions
    trainer: dict[str, Any]
    evaluation: EvaluationOptions
    lens: LensOptions
    epochs: int
    batch_size: int
    seed: int
    run_dir: str | None
    resume: bool
    overwrite: bool
    channels_last: bool
    compile: bool
    checkpoint_every_n_steps: int | None = None
    keep_checkpoints: int = 2
    on_nonfinite: Literal["stop", "skip", "backoff"] = "stop"
    save_nonfinite_batch: bool = False
    logger: str | list[str] | None = None
    logger_options: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    arch: str | None = None
    layout: str | None = None
    prefix: str | None = None
    weights: str | None = None
    freeze_epochs: int = 0
    plots: Plots = "png"

    def __post_init__(self) -> None:
        """Refuse values that make no run."""
        every = self.checkpoint_every_n_steps
        if self.keep_checkpoints < 1 or (every is not None and every < 1):
            raise ConfigError(
                "keep_checkpoints and checkpoint_every_n_steps must be at least 1 but are "
                f"{self.keep_checkpoints} and {every}."
            )
        check_least(vars(self), {"epochs": 1, "batch_size": 2, "seed": 0})
        check_count("epochs", self.epochs)
        if self.seed >= 2**32:
            raise ConfigError(f"seed must be below 2**32 but is {self.seed}.")
        if self.optimizer.warmup_epochs >= self.epochs:
            raise ConfigError(
                f"optimizer.warmup_epochs={self.optimizer.warmup_epochs} does not fit into "
                f"epochs={self.epochs}; set optimizer.warmup_epochs to less."
            )
        if self.resume and self.run_dir is None:
            raise ConfigError("resume=true needs run_dir=<the run to continue>.")
        check_trainer(self.trainer)
        check_start(self)
