"""What is evaluated: the backbone that ``checkpoint=`` names, and the images it is evaluated on."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from rich.console import Console
from torch import nn

from erssl.data import DataOptions
from erssl.errors import ConfigError, DataError
from erssl.limits import check_images
from erssl.models import BackboneOptions, build_backbone, load_backbone, named_architecture
from erssl.models.channels import RGB
from erssl.models.reports import LoadReport
from erssl.paths import user_path
from erssl.run.console import say
from erssl.run.directory import CONFIG
from erssl.settings.evaluation import PIXELS, BackboneSettings
from erssl.settings.pretrain import read_settings, run_settings
from erssl.yaml_text import read_settings_file

_RANDOM = "random:"
_DRAWS = threading.Lock()  # the random numbers are those of all threads
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        backbone: In eval mode, with ``feature_dim``.
        name: What tables call it.
        data: The images, with the preprocessing that came with the weights.
        quiet: Whether nothing is printed meanwhile.
    """

    backbone: nn.Module
    name: str
    data: DataOptions
    quiet: bool = False

    @property
    def slug(self) -> str:
        """Its name as a part of a folder's."""
        return slug(self.name)


@dataclass(frozen=True)
class Read:
    """A backbone that ``checkpoint=`` names.

    Attributes:
        backbone: In eval mode, with ``feature_dim``.
        name: What tables call it.
        preprocessing: What came with the weights; empty where nothing is known.
    """

    backbone: nn.Module
    name: str
    preprocessing: Mapping[str, Any]


def read_backbone(settings: BackboneSettings, console: Console) -> Read:
    """Read a checkpoint, or build an untrained network.

    Raises:
        ErsslError: If it cannot be read.
    """
    checkpoint = str(settings.checkpoint)
    if checkpoint.startswith(_RANDOM):
        architecture, preprocessing = _architecture(checkpoint.removeprefix(_RANDOM), settings)
        with _DRAWS, isolate_rng(include_cuda=False):
            torch.manual_seed(settings.seed)
            backbone = build_backbone(architecture).eval()
        description = f"random weights of {architecture.name}, seed {settings.seed}"
        _say(f"{checkpoint}: {description}", console)
        return Read(backbone, f"untrained {architecture.name}", preprocessing)
    backbone = load_backbone(
        checkpoint,
        settings.arch,
        allow_partial=settings.allow_partial,
        layout=settings.layout,
        prefix=settings.prefix,
        weights=settings.weights,
    )
    run = run_of(checkpoint)
    name = checkpoint if checkpoint.startswith("zoo:") else user_path(checkpoint).name
    if run is not None:
        name = f"{run_settings(run, []).method['name']}"
    preprocessing_found: Any = backbone.preprocessing
    _say(f"{checkpoint}: {backbone.report}", console)
    return Read(backbone, name, preprocessing_found)


def assumed_of(backbone: nn.Module) -> dict[str, list[str]]:
    """What was assumed of a network, for the record of an evaluation; nothing where nothing was.

    Without the preprocessing, whose values the record has of every network.
    """
    report = getattr(backbone, "report", None)
    assumed = report.assumed_of_network if isinstance(report, LoadReport) else ()
    return {"assumed": list(assumed)} if assumed else {}


def read_subject(
    settings: BackboneSettings, about_data: Sequence[str], console: Console
) -> Subject:
    """Read the backbone, and decide what it is evaluated on.

    A run is evaluated on its own images where nothing is said. Image size, channel statistics and
    interpolation are those that came with the weights unless an override says otherwise.

    Raises:
        ErsslError: If the checkpoint cannot be read, or no data are named.
    """
    checkpoint = str(settings.checkpoint)
    run = run_of(checkpoint.removeprefix(_RANDOM))
    data = _data(checkpoint, run, list(about_data))
    check_images("data.image_size", data.image_size, data.channels)
    if checkpoint == PIXELS:
        return Subject(pixels(data), "raw pixels", data, console.quiet)
    read = read_backbone(settings, console)
    architecture: Any = getattr(read.backbone, "architecture", None)
    channels = data.channels  # of a user's own module, which does not say them
    if isinstance(architecture, BackboneOptions) and architecture.library != "object":
        channels = architecture.in_channels
    data = _with_preprocessing(data, read.preprocessing, about_data, channels)
    return Subject(read.backbone, read.name, data, console.quiet)


def _say(sentence: str, console: Console) -> None:
    """Print what was read before any work is done with it, on the first process alone."""
    if all(os.environ.get(name, "0") in ("", "0") for name in _RANKS):
        say(console, sentence)


def slug(name: str) -> str:
    """A name as a part of a folder's."""
    return "".join(c if c.isalnum() or c in "._" else "-" for c in name).strip("-")


def run_of(checkpoint: str) -> Path | None:
    """The run directory of ``erssl pretrain`` that a path lies in, if it does."""
    path = user_path(checkpoint)
    for folder in (path, path.parent, path.parent.parent):
        try:
            config: Any = read_settings_file(folder / CONFIG)
        except (OSError, ValueError):
            continue
        if isinstance(config, dict) and "method" in config and "optimizer" in config:
            return folder if (path.is_file() or path == folder) else None
    return None


def require_checkpoint(checkpoint: str) -> None:
    """Make sure that a checkpoint that is named by its path is there, before more is asked for.

    Raises:
        DataError: If it is not.
    """
    named = checkpoint == PIXELS or ":" in checkpoint.partition("/")[0]
    if not named and not user_path(checkpoint).exists():
        raise DataError(
            f"There is no checkpoint at {checkpoint}; name a path, zoo:<name> or timm:<name> for "
            "published weights, or random:<architecture> for an untrained network."
        )


def _data(checkpoint: str, run: Path | None, about_data: list[str]) -> DataOptions:
    if run is not None:
        return run_settings(run, about_data).data
    if not any(override.startswith("data=") for override in about_data):
        require_checkpoint(checkpoint)
        raise ConfigError(f"checkpoint={checkpoint} needs data=<what to evaluate it on>.")
    return read_settings(about_data)[0].data


def _with_preprocessing(
    data: DataOptions, preprocessing: Any, about_data: Sequence[str], channels: int
) -> DataOptions:
    said = {override.partition("=")[0] for override in about_data}
    own = {"channels": channels, **preprocessing}
    if data.channels != channels and "data.channels" in said:
        raise ConfigError(
            f"data.channels={data.channels} but the backbone takes images of {channels} "
            f"{'channel' if channels == 1 else 'channels'}; leave data.channels out."
        )
    return dataclasses.replace(data, **{k: v for k, v in own.items() if f"data.{k}" not in said})


def _architecture(
    what: str, settings: BackboneSettings
) -> tuple[BackboneOptions, Mapping[str, Any]]:
    """Architecture and preprocessing of a file or a run, or an architecture by name."""
    if not what:
        raise ConfigError("checkpoint=random: needs an architecture or a run, as random:resnet50.")
    if user_path(what).exists():
        trained: Any = load_backbone(
            what,
            settings.arch,
            layout=settings.layout,
            prefix=settings.prefix,
            weights=settings.weights,
        )
        return trained.architecture, trained.preprocessing
    return named_architecture(what), {}


def pixels(data: DataOptions) -> nn.Module:
    """What gives the pixels of an image as its features."""
    flatten = nn.Flatten()
    flatten.feature_dim = data.channels * data.image_size**2  # type: ignore[assignment]
    return flatten


def require_rgb(backbone: nn.Module, command: str) -> None:
    """Refuse a backbone of other images than those of a protocol whose images are RGB.

    Raises:
        DataError: If it takes other channels than three.
    """
    channels = getattr(getattr(backbone, "architecture", None), "in_channels", RGB)
    if channels != RGB:
        raise DataError(
            f"erssl {command} reads images as RGB and the backbone takes {channels} "
            f"{'channel' if channels == 1 else 'channels'}; evaluate it on images of its own by "
            "erssl knn or erssl linear."
        )


def require_backbone(subject: Subject, command: str) -> None:
    """Refuse what has no weights to train.

    Raises:
        DataError: If nothing in it can be trained.
    """
    if not list(subject.backbone.parameters()):
        raise DataError(
            f"{subject.name} has no weights, and erssl {command} trains the backbone; evaluate it "
            "by erssl knn or erssl linear."
        )
