"""``erssl transfer``: eleven data sets, by logistic regression or by fine-tuning."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from erssl.data.options import loader_processes
from erssl.downstream.transfer.datasets import (
    TRANSFER_DATASETS,
    TransferData,
    check_images,
    load_transfer,
)
from erssl.downstream.transfer.finetune import Point
from erssl.downstream.transfer.results import Row, markdown, published_rows, write_table
from erssl.downstream.transfer.splits import keep_splits
from erssl.downstream.transfer.suite import Outcome, run_finetune, run_linear
from erssl.downstream.transfer.transforms import TransferPreprocessing, preprocessing_of
from erssl.errors import ConfigError
from erssl.evaluation import cached_features, stored_features
from erssl.evaluation.fingerprints import weights_digest
from erssl.evaluation.published import published
from erssl.evaluation.storage import dtype_for, storage_for
from erssl.paths import erssl_home, user_path
from erssl.protocols.classifier_training import naming_folder
from erssl.protocols.evaluation import OWN_FEATURES, best_device
from erssl.protocols.record import folder_for, leave_results, open_folder
from erssl.protocols.subject import Read, assumed_of, read_backbone, require_rgb, slug
from erssl.protocols.trainer import quiet
from erssl.protocols.transfer_shares import SHARED_OUT, Shares, finished, part_folder, read_shares
from erssl.run.console import say, say_lines
from erssl.run.directory import RESULTS, RunDirectory, environment
from erssl.run.faults import restarted
from erssl.run.lock import locked
from erssl.run.result import Result
from erssl.settings.evaluation import PIXELS
from erssl.settings.transfer import TransferSettings


def run(overrides: Sequence[str], console: Console) -> Result:
    """Evaluate a backbone by what it is worth elsewhere."""
    quiet()
    settings, shares = read_shares(restarted(overrides))
    return transfer(settings, console, shares)


def transfer(settings: TransferSettings, console: Console, shares: Shares | None = None) -> Result:
    """Run the suite; every data set leaves its own ``results.json``, all together one table.

    Args:
        settings: The suite.
        console: Where results and the table go.
        shares: Does it side by side; ``None`` for one data set after another.

    Returns:
        The folder, the metric of each data set on average over the seeds, and under ``"runs"`` the
        content of the ``results.json`` of each data set and seed; no metrics where only points of
        the grid were asked for.

    Raises:
        ErsslError: If it cannot be done. All data sets are opened before the first is computed on.
    """
    if settings.checkpoint == PIXELS:
        raise ConfigError("checkpoint=pixels has no weights to transfer; name a backbone.")
    read = read_backbone(settings, console)
    require_rgb(read.backbone, "transfer")
    config = {**asdict(settings), "weights": weights_digest(read.backbone)}
    path = folder_for(settings.run_dir, "transfer", settings.mode, slug(read.name))
    # Shares of a suite that others compute leave the table and what they do not compute alone.
    whole = settings.table and settings.points is None
    with locked(path) if whole else nullcontext(), naming_folder(path):
        return _suite(settings, read, config, path, shares, console)


def _suite(
    settings: TransferSettings,
    read: Read,
    config: Mapping[str, Any],
    folder: Path,
    shares: Shares | None,
    console: Console,
) -> Result:
    run_dir = _open_folder(settings, folder, config)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    keys = list(product(seeds, settings.names))
    results = {key: done for key in keys if (done := finished(part_folder(folder, *key)))}
    left = [key for key in keys if key not in results]
    for key in left:
        _check(settings, *key)
    if not settings.resume:
        run_dir.write_config(config)
    if shares is not None:
        shares.run(folder, left, console)
    for key in left:
        place = part_folder(folder, *key)
        with locked(place) if settings.points is None else nullcontext():
            done = finished(place) or _one(settings, read, folder, *key, console)
        if done is not None:
            results[key] = done
    if settings.points is not None:
        points = f"Points {', '.join(map(str, settings.points))} of the grid are in {folder}"
        sentence = f"{points}; choose among all, and test, with resume=true."
        say(console, sentence)
        return Result(folder)
    ordered = [results[key] for key in keys]
    if settings.table:
        _show_table(settings, read, folder, ordered, console)
    averages = {name: value / 100 for name, value in _ours(read.name, ordered).values.items()}
    return Result(folder, averages, {"runs": ordered})


def _open_folder(settings: TransferSettings, path: Path, config: Mapping[str, Any]) -> RunDirectory:
    """The suite's folder, once what is in it agrees with what was asked for."""
    return open_folder(
        path,
        config,
        goes_on=settings.resume,
        overwrite=settings.overwrite,
        may_change=SHARED_OUT,
    )


def _check(settings: TransferSettings, seed: int, name: str) -> None:
    """Find what is wrong with a data set before any is computed on."""
    data = _load(settings, seed, name)
    if settings.mode == "finetune" and settings.verify and seed == settings.seed:
        check_images(data, loader_processes(settings.num_workers) + 1)


def _load(settings: TransferSettings, seed: int, name: str) -> TransferData:
    root = user_path(str(settings.data_root))
    return load_transfer(name, root, settings.download, seed, settings.partial_ok)


def _one(
    settings: TransferSettings, read: Read, folder: Path, seed: int, name: str, console: Console
) -> dict[str, Any] | None:
    """What a data set comes to; ``None`` where only points of the grid were asked for."""
    began = time.perf_counter()
    place = part_folder(folder, seed, name)
    place.mkdir(parents=True, exist_ok=True)
    data, device = _load(settings, seed, name), best_device()
    splits = keep_splits(place, data)
    outcome = _evaluate(settings, read, data, place, device, console)
    if outcome is None:
        return None
    for note in outcome.notes:
        say(console, f"{name}: {note}")
    for sentence in outcome.warnings:
        shown = f"{name}: Warning: {sentence}"
        say(console, shown, style="yellow")
    protocol = f"transfer_{settings.mode}"
    facts = {"splits": splits, "counts": data.counts, "complete": data.complete}
    preprocessing = preprocessing_of(read.preprocessing).as_dict()
    known = {"preprocessing": preprocessing, **assumed_of(read.backbone)}
    beside = published(protocol, name) if data.complete and _as_published(settings, read) else None
    results = leave_results(
        place / RESULTS,
        protocol=protocol,
        dataset=name,
        method=read.name,
        metrics=outcome.metrics,
        seed=seed,
        config={**asdict(settings), **facts, **outcome.facts, **known, "notes": outcome.notes},
        environment=environment(device),
        wall_seconds=time.perf_counter() - began,
        published=beside,
        warnings=outcome.warnings,
    )
    metric = TRANSFER_DATASETS[name].metric
    value = f"{name}: {outcome.metrics[metric]:.1%} ({metric})"
    say(console, value)
    return results


def _evaluate(
    settings: TransferSettings,
    read: Read,
    data: TransferData,
    place: Path,
    device: torch.device,
    console: Console,
) -> Outcome | None:
    preprocessing = preprocessing_of(read.preprocessing)
    workers = loader_processes(settings.num_workers)
    backbone = read.backbone.to(device)
    if settings.mode == "finetune":
        grid = settings.grid

        def tell(number: int, point: Point) -> None:
            shown = "diverged" if point.metric is None else f"{point.metric:.1%}"
            of = f"{data.name}: {number + 1} of {len(grid.grid)}"
            at = f"lr {point.learning_rate:g}, weight decay {point.weight_decay:g}"
            say(console, f"{of}, {at}: {shown}")

        return run_finetune(
            backbone,
            data,
            preprocessing,
            grid,
            place,
            data.seed,
            device,
            workers,
            settings.partial_ok,
            tell,
            settings.points,
        )
    home = user_path(settings.cache_dir) if settings.cache_dir else erssl_home() / "features"
    images = len(data.train_val) + len(data.test)
    width = getattr(backbone, "feature_dim", None)
    storage = storage_for(settings.features_storage, images, width)
    own = place / OWN_FEATURES if storage == "disk" else None
    extraction = {
        "cache_dir": home if settings.cache else own,
        "dtype": dtype_for(settings.features_dtype, storage),
        "precision": settings.features_precision,
        "batch_size": settings.feature_batch_size,
        "num_workers": workers,
    }
    try:
        return run_linear(
            backbone,
            data,
            preprocessing,
            extraction,
            device,
            settings.partial_ok,
            settings.tolerance,
            settings.max_iter,
            stored_features if storage == "disk" else cached_features,
        )
    finally:
        shutil.rmtree(place / OWN_FEATURES, ignore_errors=True)


def _show_table(
    settings: TransferSettings,
    read: Read,
    folder: Path,
    results: Sequence[Mapping[str, Any]],
    console: Console,
) -> None:
    """The table, among the published rows where the protocol is theirs."""
    beside = published_rows(settings.mode) if _as_published(settings, read) else []
    rows = [_ours(read.name, results), *beside]
    write_table(folder, rows, settings.names, settings.mode, settings.plots_format or "png")
    say_lines(console, f"\n{markdown(rows, settings.names)}")
    say(console, f"\nResults: {folder}")


def _as_published(settings: TransferSettings, read: Read) -> bool:
    """Whether published numbers are of the same protocol."""
    size = preprocessing_of(read.preprocessing).image_size
    return settings.as_published and size == TransferPreprocessing.image_size


def _ours(name: str, results: Sequence[Mapping[str, Any]]) -> Row:
    """Mean of the seeds and their deviation, in per cent."""
    percents: dict[str, list[float]] = {}
    for result in results:
        metric = TRANSFER_DATASETS[result["dataset"]].metric
        percents.setdefault(result["dataset"], []).append(100 * result["metrics"][metric])
    parts = [r["dataset"] for r in results if not r["config"]["complete"]]
    return Row(
        name,
        {dataset: statistics.fmean(values) for dataset, values in percents.items()},
        {d: statistics.stdev(values) for d, values in percents.items() if len(values) > 1},
        published=False,
        incomplete=list(dict.fromkeys(parts)),
    )
