"""``erssl embed``: features of images, written to a file that other programs read."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from erssl.data import build_eval_transform
from erssl.errors import ConfigError, counted
from erssl.evaluation import Features, cached_features
from erssl.files import remove_remains
from erssl.limits import check_images
from erssl.models import check_input_size
from erssl.models.patch_tokens import PatchTokens
from erssl.models.weights_files import SAFETENSORS
from erssl.paths import user_path
from erssl.protocols.build import trained_method
from erssl.protocols.evaluation import best_device, progress_bar
from erssl.protocols.similar import check_queries, write_similar
from erssl.protocols.splits import chosen_splits, image_rows, say_images
from erssl.protocols.subject import Subject, read_subject, run_of
from erssl.run.console import say
from erssl.run.directory import LAST_CHECKPOINT
from erssl.run.feature_files import (
    check_new,
    check_output,
    open_parts,
    table_of,
    write_features,
)
from erssl.run.launch import started_share
from erssl.run.lock import locked
from erssl.run.result import Result
from erssl.settings.embed import EmbedSettings, read_embed
from erssl.settings.pretrain import run_settings

SHARD = 512  # images that a killed process loses at most
_SHARD_BYTES = 2**26  # fewer images than that where features are wide
_DTYPES = {"float32": torch.float32, "float16": torch.float16}


def run(overrides: Sequence[str], console: Console) -> Result:
    """Write the features of images."""
    settings, about_data = read_embed(overrides)
    return embed(settings, about_data, console)


def embed(settings: EmbedSettings, about_data: Sequence[str], console: Console) -> Result:
    """Compute features of images and write them with the images' names and classes.

    What has been computed is kept in ``<output>.parts`` until the file is whole, so that the same
    command goes on after a kill.

    Returns:
        The file, and what it holds.

    Raises:
        ErsslError: If it cannot be done; nothing has been written then but the parts.
    """
    began = time.perf_counter()
    path = settings.path
    check_output(path, settings.overwrite)
    check_new((settings.page,), settings.overwrite)
    subject = read_subject(settings, about_data, console)
    check_input_size(subject.backbone, [subject.data.image_size], subject.data.channels)
    network, shape = _network(settings, subject)
    datasets = subject.data.load().evaluated()
    subject = dataclasses.replace(subject, data=subject.data.measured(datasets.train))
    say_images(datasets, console)
    splits = chosen_splits(datasets, settings.split)
    at_once = min(settings.feature_batch_size, max(len(images) for _, images in splits))
    about = subject.data
    check_images("data.image_size", about.image_size, about.channels, at_once, "feature_batch_size")
    rows = image_rows(splits, datasets)
    queries = check_queries(settings.queries, rows) if settings.page else []
    parts = open_parts(path)
    share = settings.share or started_share()
    own = parts if share is None else parts / f"process-{share[0]}-of-{share[1]}"
    with locked(own, "output"), _only_parts_that_hold_features(parts, alone=share is None):
        taken = [
            _features(name, images, network, shape, settings, subject, parts, console, share)
            for name, images in splits
        ]
        if share is not None:
            mine = f"{share[0]}/{share[1]}"
            say(console, f"Process {mine} is done; once all are, the command alone writes {path}.")
            return Result(parts)
        features = torch.cat([each.features for each in taken]).to(_DTYPES[settings.features_dtype])
        page = settings.page
        for file in (path, table_of(path), page):
            if file is not None:
                remove_remains(file)
        more: dict[str, Any] = {}
        if page is not None:
            more = write_similar(page, settings, features, rows, splits, queries)
        write_features(path, features.unflatten(1, shape).numpy(), rows)
        shutil.rmtree(parts, ignore_errors=True)
    _say_where(settings, features, shape, time.perf_counter() - began, more, console)
    results = {"shape": (len(features), *shape), "files": rows.files, "skipped": datasets.skipped}
    return Result(path, results={**results, **more})


@contextmanager
def _only_parts_that_hold_features(parts: Path, alone: bool) -> Iterator[None]:
    """Keep after an error what the same command can go on from, and leave no folder without any.

    Args:
        parts: Where they lie.
        alone: Whether no other process works there.
    """
    try:
        yield
    except BaseException:
        if alone and not any(parts.rglob(f"*{SAFETENSORS}")):
            shutil.rmtree(parts, ignore_errors=True)
        raise


def _network(settings: EmbedSettings, subject: Subject) -> tuple[nn.Module, tuple[int, ...]]:
    """What gives the features, and their shape for one image."""
    if settings.on == "patches":
        tokens = PatchTokens(subject.backbone, subject.data.image_size, subject.data.channels)
        return tokens, tokens.shape
    if settings.on == "embedding":
        data = subject.data
        return _with_head(str(settings.checkpoint), data.image_size, data.channels)
    return subject.backbone, (int(subject.backbone.feature_dim),)  # type: ignore[arg-type]


def _with_head(
    checkpoint: str, image_size: int, channels: int
) -> tuple[nn.Module, tuple[int, ...]]:
    """The online branch of a run: backbone and projection head, and the width of embeddings."""
    run_dir = run_of(checkpoint)
    if run_dir is None:
        raise ConfigError(
            f"on=embedding needs a run directory of erssl pretrain or one of its checkpoints, and "
            f"checkpoint={checkpoint} is none; leave on=embedding out."
        )
    file = user_path(checkpoint)
    if file.suffix == ".safetensors":
        raise ConfigError(
            f"checkpoint={checkpoint} holds the backbone alone; name the run directory {run_dir} "
            "for its embeddings."
        )
    method = trained_method(
        file if file.is_file() else run_dir / LAST_CHECKPOINT, run_settings(run_dir, [])
    )
    if isinstance(method.projection_head, nn.Identity):
        raise ConfigError(
            f"{type(method).__name__} has no projection head; leave on=embedding out."
        )
    branch = nn.Sequential(method.backbone, nn.Flatten(), method.projection_head).eval()
    with torch.no_grad():
        width = branch(torch.zeros(2, channels, image_size, image_size)).shape[1]
    return branch, (int(width),)


def _features(
    split: str,
    images: Any,
    network: nn.Module,
    shape: tuple[int, ...],
    settings: EmbedSettings,
    subject: Subject,
    parts: Path,
    console: Console,
    share: tuple[int, int] | None = None,
) -> Features:
    """Features (N, d) of a split, those of patches side by side; of a share, what is there."""
    data = subject.data
    transform: Callable[[Any], Tensor] = build_eval_transform(
        data.image_size, data.mean, data.std, data.interpolation, data.crop_pct
    )
    width = torch.Size(shape).numel()
    device = _device()
    what = "training" if split == "train" else "validation"
    with progress_bar(console, f"features of {len(images)} {what} images") as update:
        return cached_features(
            network.to(device),
            images,
            transform,
            cache_dir=parts,
            preprocessing=data.preprocessing,
            dtype=settings.features_dtype,
            precision=settings.features_precision,
            batch_size=settings.feature_batch_size,
            num_workers=data.workers,
            device=device,
            shard_size=max(1, min(SHARD, _SHARD_BYTES // (4 * width))),
            share=share,
            progress=update,
        )


def _device() -> torch.device:
    """The GPU of this process where several were started together, else the first."""
    device, local = best_device(), os.environ.get("LOCAL_RANK", "")
    return torch.device("cuda", int(local)) if device.type == "cuda" and local.isdigit() else device


def _say_where(
    settings: EmbedSettings,
    features: Tensor,
    shape: tuple[int, ...],
    seconds: float,
    more: Mapping[str, Any],
    console: Console,
) -> None:
    table = table_of(settings.path)
    where = f"{settings.path}" if table is None else f"{settings.path} and {table}"
    sizes = " x ".join(map(str, (len(features), *shape)))
    say(console, f"Features {sizes} of {len(features)} images: {where} ({seconds:.0f} s)")
    if more:
        said = f"{counted(more['near_duplicates'], 'near-duplicate')} "
        said += f"(cosine {settings.duplicates:g} and up)"
        if more["leaks"]:
            said += f", {more['leaks']:,} of them between train and val"
        say(console, f"{said}; neighbours and map: {more['page']}")
