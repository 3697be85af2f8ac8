"""The settings of ``erssl detect``: what may be said, and what is refused before any work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from erssl.downstream.detection.job import Evaluator
from erssl.downstream.detection.recipes import RECIPES, Recipe
from erssl.errors import ConfigError
from erssl.limits import check_count, check_least, check_processes
from erssl.run.plots import Plots
from erssl.settings.compose import FREE, compose_config, schema_from
from erssl.settings.evaluation import PIXELS, BackboneSettings
from erssl.settings.hints import nearest
from erssl.settings.loggers import LoggerSettings, check_loggers

_PATHS = ("train_images", "train_annotations", "val_images", "val_annotations")
# Of a training that is resumed: where and how it runs, not what it computes.
MAY_CHANGE = (
    "device",
    "devices",
    "verify",
    "eval_period",
    "checkpoint_period",
    "eval_only",
    "evaluator",
    "checkpoint",
    "data_root",
    *_PATHS,  # whose content has a digest
)


@dataclass(frozen=True, kw_only=True)
class DetectSettings(BackboneSettings, LoggerSettings):
    """``configs/detect.yaml``."""

    run_dir: str | None
    backend: Literal["detectron2", "torchvision"]
    recipe: str
    data_root: str | None
    train_images: str | None
    train_annotations: str | None
    val_images: str | None
    val_annotations: str | None
    batch_size: int
    iterations: int | None
    learning_rate: float | None
    min_sizes: list[int] | None
    max_size: int | None
    test_size: int | None
    rois_per_image: int
    evaluator: Evaluator
    eval_period: int
    checkpoint_period: int
    num_workers: int | None
    device: Literal["auto", "cpu", "cuda"]
    devices: int
    verify: bool
    resume: bool
    eval_only: bool
    plots: Plots

    def __post_init__(self) -> None:
        """Refuse values that detect nothing."""
        super().__post_init__()
        if self.checkpoint == PIXELS:
            raise ConfigError("checkpoint=pixels has no weights to fine-tune; name a backbone.")
        if self.recipe not in RECIPES:
            raise ConfigError(f"recipe={self.recipe} is unknown; {nearest(self.recipe, RECIPES)}")
        check_loggers(self.logger, self.logger_options)
        self._check_backend()
        self._check_data()
        self._check_numbers()
        self._check_sizes()
        for key in ("resume", "eval_only"):
            if getattr(self, key) and self.run_dir is None:
                raise ConfigError(f"{key}=true needs run_dir=<the run that was begun>.")
        if self.eval_only and self.overwrite:
            raise ConfigError("eval_only=true reads the run that overwrite=true deletes; give one.")

    @property
    def chosen(self) -> Recipe:
        """The recipe."""
        return RECIPES[self.recipe]

    @property
    def sizes(self) -> tuple[tuple[int, ...], int, int]:
        """Short sides of training images, the long side's limit, short side of test images."""
        recipe = self.chosen
        return (
            tuple(self.min_sizes or recipe.min_sizes),
            self.max_size or recipe.max_size,
            self.test_size or recipe.test_size,
        )

    @property
    def place(self) -> torch.device:
        """Where it is computed."""
        cuda = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if cuda else "cpu")

    def _check_backend(self) -> None:
        if self.backend == "torchvision" and self.chosen.neck == "c4":
            fpn = [name for name, recipe in RECIPES.items() if recipe.neck == "fpn"]
            raise ConfigError(
                f"recipe={self.recipe} is for backend=detectron2, since torchvision has no C4 "
                f"detector; choose {' or '.join(fpn)}, or install Detectron2."
            )
        if self.backend == "detectron2" and self.evaluator != "pycocotools":
            raise ConfigError(
                f"evaluator={self.evaluator} is for backend=torchvision; Detectron2 evaluates by "
                "pycocotools, so leave evaluator out."
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                f"device=cuda but torch {torch.__version__} sees no CUDA device; choose device=cpu "
                "or auto, or check the driver."
            )
        if self.place.type == "cuda" and self.devices > torch.cuda.device_count():
            raise ConfigError(
                f"devices={self.devices} but there are {torch.cuda.device_count()}; set fewer."
            )

    def _check_data(self) -> None:
        said = [key for key in _PATHS if getattr(self, key) is not None]
        if self.data_root is not None and said:
            raise ConfigError(f"data_root and {said[0]} exclude each other; give one of them.")
        if self.chosen.data == "voc" and self.data_root is None:
            raise ConfigError(
                f"recipe={self.recipe} needs data_root=<the folder of VOCdevkit>; images by "
                "explicit paths are for COCO's format."
            )
        missing = [key for key in _PATHS if key not in said]
        if self.data_root is None and missing:
            raise ConfigError(
                "erssl detect needs data_root=<a folder in the layout of the recipe's data>, or "
                f"{', '.join(_PATHS)} together; {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing."
            )

    def _check_numbers(self) -> None:
        least = {"batch_size": 1, "devices": 1, "eval_period": 0, "checkpoint_period": 1}
        least |= {"iterations": 1, "num_workers": 0, "rois_per_image": 1}
        check_least(vars(self), least)
        check_count("iterations", self.iterations or 0)
        check_processes("num_workers", self.num_workers or 0)
        if self.batch_size % self.devices:
            raise ConfigError(
                f"batch_size={self.batch_size} cannot be shared by {self.devices} devices; choose "
                "a multiple."
            )
        rate = self.learning_rate
        if rate is not None and not 0 < rate < math.inf:
            raise ConfigError(f"learning_rate must be a number above 0 but is {rate:g}.")

    def _check_sizes(self) -> None:
        if self.min_sizes == []:
            raise ConfigError("min_sizes=[] names no size; give short sides such as [640,800].")
        sides, longest, test = self.sizes
        if min(*sides, longest, test) < 32:
            raise ConfigError(
                f"min_sizes, max_size and test_size must be at least 32 pixels, the coarsest "
                f"feature, but are {list(sides)}, {longest} and {test}."
            )
        if longest < max(*sides, test):
            raise ConfigError(
                f"max_size={longest} limits the long side, so it cannot be less than the short "
                f"side {max(*sides, test)} of min_sizes and test_size; raise it or lower them."
            )


def read_detect(overrides: Sequence[str]) -> DetectSettings:
    """Read the settings from the overrides of the command line.

    Raises:
        ConfigError: If a key or value is unknown, or makes no run.
    """
    schema = {**schema_from(DetectSettings), "logger_options": FREE}
    config = compose_config("detect", list(overrides), lambda _: schema, {})
    return DetectSettings(**config)
