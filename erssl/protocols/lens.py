"""``erssl lens``: entropy and reconstruction of a checkpoint, or of several runs in one image."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from erssl.callbacks import ERLens
from erssl.callbacks.er_lens import Embed
from erssl.data import SSLDataModule
from erssl.errors import ConfigError, DataError
from erssl.evaluation.label_free import spectral_reading
from erssl.evaluation.lens_quantities import lens_reading
from erssl.models import load_backbone
from erssl.models.foreign import load_branch
from erssl.paths import user_path
from erssl.protocols.build import trained_method
from erssl.protocols.record import leave_results
from erssl.protocols.subject import require_checkpoint
from erssl.run.console import say
from erssl.run.directory import CONFIG, LAST_CHECKPOINT, LENS, environment, read_lens
from erssl.run.lens_figure import plot_lens
from erssl.run.result import Result
from erssl.settings.arguments import is_setting
from erssl.settings.hints import OF_DATA, unknown_setting
from erssl.settings.keys import LENS_KEYS
from erssl.settings.pretrain import read_settings, run_settings
from erssl.settings.pretrain_options import PretrainSettings

_IMAGES = (".png", ".pdf", ".svg")
_SHARED = ("data", "lens", "seed")  # groups and keys of erssl pretrain


def run(overrides: Sequence[str], console: Console) -> Result:
    """Read a checkpoint, or draw what was read of several runs."""
    own = dict(
        override.partition("=")[::2]
        for override in overrides
        if override.partition("=")[0] in LENS_KEYS
    )
    rest = [override for override in overrides if override.partition("=")[0] not in LENS_KEYS]
    folders = [override for override in rest if not is_setting(override)]
    if folders:
        extra = [
            override
            for override in overrides
            if is_setting(override) and not override.startswith("output=")
        ]
        if extra:
            raise ConfigError(
                "erssl lens draws run directories together with output= only; leave "
                f"{extra[0]} out."
            )
        return draw(folders, user_path(own.get("output", "lens.png")), console)
    for override in rest:
        key = override.partition("=")[0]
        if key.partition(".")[0] not in _SHARED:
            raise ConfigError(unknown_setting(override, {*LENS_KEYS, *_SHARED, *OF_DATA}))
    if "checkpoint" not in own:
        raise ConfigError("erssl lens needs checkpoint=<what to read>, or run directories.")
    if own.get("on", "embedding") not in ("embedding", "features"):
        raise ConfigError(f"on={own['on']} is unknown; choose embedding or features.")
    if own.get("head_activation", "relu") not in ("relu", "gelu"):
        raise ConfigError(
            f"head_activation={own['head_activation']} is unknown; choose relu or gelu."
        )
    return measure(own, rest, console)


def draw(folders: Sequence[str], output: Path, console: Console) -> Result:
    """One image of what was read of several runs.

    Raises:
        ConfigError: If ``output`` is no image's name.
        DataError: If one of them has no ``lens.csv``.
    """
    if output.suffix not in _IMAGES:
        raise ConfigError(
            f"output={output} must end in one of {', '.join(_IMAGES)} for an image of runs."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    runs = {}
    for folder in folders:
        file = user_path(folder) / LENS
        if not user_path(folder).exists():
            raise DataError(f"There is no folder {folder}; name run directories of erssl pretrain.")
        if not file.is_file():
            raise DataError(
                f"There is no {LENS} in {folder}; name run directories of erssl pretrain, whose "
                "lens was not switched off."
            )
        runs[_label(folder, folders)] = read_lens(file)
        if not runs[_label(folder, folders)]:
            raise DataError(f"{file} has no reading; leave {folder} out.")
    if not plot_lens(runs, output):
        raise DataError(
            f"The {LENS} of {', '.join(folders)} have no quantity of the lens in common; name run "
            "directories of erssl pretrain."
        )
    say(console, f"Drawn: {output}")
    return Result(output)


def measure(own: dict[str, str], overrides: list[str], console: Console) -> Result:
    """Read the lens of one checkpoint, print it, and write it where ``output`` says.

    Raises:
        ErsslError: If the checkpoint cannot be read, or does not fit the images.
    """
    began = time.perf_counter()
    path = user_path(own["checkpoint"])
    if path.suffix == ".ckpt" and (path.parent.parent / CONFIG).is_file():
        path, own = path.parent.parent, own | {"file": str(path)}  # a checkpoint of our own run
    if user_path(own.get("output", "")).is_file():
        raise ConfigError(f"output={own['output']} is a file; name a folder.")
    trained_here = path.is_dir() and (path / CONFIG).is_file()
    settings = run_settings(path, overrides) if trained_here else read_settings(overrides)[0]
    if not trained_here and not any(override.startswith("data=") for override in overrides):
        require_checkpoint(own["checkpoint"])
        raise ConfigError(f"checkpoint={path} needs data=<what to read it on>.")
    said = {override.partition("=")[0] for override in overrides}
    module, embed, settings = _module(path, own, settings, trained_here, said)
    options = settings.data
    if options.pipeline == "device":  # would hold all images; the lens has lightly's views there
        options = dataclasses.replace(options, pipeline="lightly")
    data = SSLDataModule(options, 2, settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    probe = data.probe_views(settings.lens.probe_size)
    lens = ERLens(probe, embed, kappas=settings.lens.kappas)
    embeddings, logits = lens.outputs(module.to(device).eval())
    further = spectral_reading(embeddings)
    reading = lens_reading(embeddings, logits, lens.kappas)
    reading |= {name: value for name, value in further.items() if not math.isnan(value)}
    table = Table("quantity", "value", box=None, pad_edge=False)
    for name, value in reading.items():
        table.add_row(name, "collapsed" if value == -math.inf else f"{value:.4f}")
    console.print(table)
    headless = own.get("on") == "features" or path.suffix == ".safetensors"
    what = "backbone features" if headless else "embeddings"
    say(
        console,
        f"\n{len(probe[0])} images of {settings.data.name} in two views, their {what}; "
        "information in nats. What is a bound and what an estimate: docs/lens.md.",
    )
    if "output" in own:
        folder = user_path(own["output"])
        folder.mkdir(parents=True, exist_ok=True)
        leave_results(
            folder / "lens.json",
            protocol="lens",
            dataset=settings.data.name,
            method=settings.method["name"] if trained_here else None,
            metrics=reading,
            seed=settings.seed,
            config={**dataclasses.asdict(settings), **own},
            environment=environment(device),
            wall_seconds=time.perf_counter() - began,
        )
        say(console, f"Written: {folder / 'lens.json'}")
    return Result(user_path(own.get("output", own["checkpoint"])), reading)


def _module(
    path: Path,
    own: dict[str, str],
    settings: PretrainSettings,
    trained_here: bool,
    said: set[str],
) -> tuple[nn.Module, Embed | None, PretrainSettings]:
    """The module to read, how to read it, and settings with its preprocessing."""
    features = own.get("on") == "features"
    if trained_here and not features:
        file = Path(own.get("file", path / LAST_CHECKPOINT))
        return trained_method(file, settings), None, settings
    if features or path.is_dir() or path.suffix == ".safetensors":
        backbone = load_backbone(own["checkpoint"], own.get("arch"))
        head: nn.Module = nn.Identity()
    else:
        backbone, head = load_branch(
            own["checkpoint"],
            own.get("arch"),
            own.get("head_prefix", "projection_head."),
            own.get("head_activation", "relu"),  # type: ignore[arg-type]
        )
    own_preprocessing: Any = backbone.preprocessing
    kept = {k: v for k, v in own_preprocessing.items() if f"data.{k}" not in said}
    data = dataclasses.replace(settings.data, **kept) if kept else settings.data
    branch = nn.Sequential(backbone, nn.Flatten(), head)
    return branch, branch, dataclasses.replace(settings, data=data)


def _label(folder: str, folders: Sequence[str]) -> str:
    """The folder's own name, or the whole where two share it."""
    name = Path(folder).name
    return name if [Path(f).name for f in folders].count(name) == 1 else folder
