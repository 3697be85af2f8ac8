"""``erssl transfer``: eleven data sets, by logistic regression or by fine-tuning."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from erssl.cli._config import compose_config, nearest, schema_from
from erssl.cli._evaluate import best_device
from erssl.cli._help import protocol_help, quiet
from erssl.cli._protocols import EvaluationSettings, FeatureSettings, check_same_settings
from erssl.cli._subject import PIXELS, Read, read_backbone, slug
from erssl.data.options import DataOptions
from erssl.downstream.transfer.datasets import TRANSFER_DATASETS, TransferData, load_transfer
from erssl.downstream.transfer.finetune import FinetuneOptions, Point
from erssl.downstream.transfer.results import Row, markdown, published_rows, write_table
from erssl.downstream.transfer.splits import keep_splits
from erssl.downstream.transfer.suite import Outcome, run_finetune, run_linear
from erssl.downstream.transfer.transforms import preprocessing_of
from erssl.errors import ConfigError, RunError
from erssl.evaluation.fingerprints import weights_digest
from erssl.evaluation.published import published
from erssl.paths import erssl_home
from erssl.runs import CONFIG, RESULTS, RunDirectory, environment, make_results, write_json

_OWN_PRESET = ("learning_rates", "weight_decays")
_FINETUNE = ("steps", "batch_size", "learning_rates", "weight_decays", "momentum")


@dataclass(frozen=True, kw_only=True)
class TransferSettings(EvaluationSettings, FeatureSettings):
    """``configs/transfer.yaml``."""

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
        if self.seeds < 1 or self.max_iter < 1 or not 0 < self.tolerance < math.inf:
            raise ConfigError(
                "seeds and max_iter must be at least 1 and tolerance above 0 but are "
                f"{self.seeds}, {self.max_iter} and {self.tolerance}."
            )
        if self.resume and self.run_dir is None:
            raise ConfigError("resume=true needs run_dir=<the suite to go on with>.")
        if self.plots:
            raise ConfigError("erssl transfer draws transfer.png anyway; leave plots out.")

    @property
    def names(self) -> list[str]:
        """The data sets, each once, in the suite's order."""
        said = [self.datasets] if isinstance(self.datasets, str) else self.datasets
        if said == ["all"]:
            return list(TRANSFER_DATASETS)
        return [*dict.fromkeys(said)]

    @property
    def grid(self) -> FinetuneOptions:
        """What fine-tuning tries."""
        own = {key: getattr(self, key) for key in _FINETUNE}
        return FinetuneOptions(**own | {key: tuple(own[key]) for key in _OWN_PRESET})


def help_text() -> str:
    """What ``--help`` prints."""
    return protocol_help(
        "transfer",
        "eleven data sets, by logistic regression or by fine-tuning",
        (
            "erssl transfer checkpoint=runs/mine data_root=/data datasets=[dtd,pets,cifar10]",
            "erssl transfer checkpoint=zoo:swav_800ep data_root=/data download=true",
            "erssl transfer checkpoint=resnet50.pth mode=finetune data_root=/data run_dir=runs/t",
        ),
    )


def run(words: Sequence[str]) -> int:
    """Judge a backbone by what it is worth elsewhere."""
    quiet()
    schema = schema_from(TransferSettings)
    for word in words:
        key = word.partition("=")[0]
        if key.partition(".")[0] not in schema:
            raise ConfigError(f"The key {key} is unknown; {nearest(key, schema)}")
    config = compose_config(
        "transfer", list(words), lambda _: schema, {"preset": "preset/transfer"}
    )
    transfer(TransferSettings(**config), Console())
    return 0


def transfer(settings: TransferSettings, console: Console) -> list[dict[str, Any]]:
    """Run the suite; every data set leaves its own ``results.json``, all together one table.

    Returns:
        The content of the ``results.json`` of each data set and seed.

    Raises:
        ErsslError: If it cannot be done.
    """
    grid = settings.grid
    if settings.checkpoint == PIXELS:
        raise ConfigError("checkpoint=pixels has no weights to transfer; name a backbone.")
    read = read_backbone(settings)
    folder = _folder(settings, read)
    config = {**asdict(settings), "weights": weights_digest(read.backbone)}
    run_dir = RunDirectory(folder, settings.resume, settings.overwrite, resume_from=CONFIG)
    if settings.resume:
        check_same_settings(folder / CONFIG, config)
    run_dir.write_config(config)
    results = []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        for name in settings.names:
            place = folder / f"seed{seed}" / name
            done = _finished(place) if settings.resume else None
            if done is None:
                done = _one(name, settings, grid, read, seed, place, console)
            results.append(done)
            value = done["metrics"][TRANSFER_DATASETS[name].metric]
            console.print(f"{name}: {value:.1%} ({TRANSFER_DATASETS[name].metric})")
    rows = [_ours(read.name, results), *published_rows(settings.mode)]
    write_table(folder, rows, settings.names, settings.mode)
    console.print(f"\n{markdown(rows, settings.names)}", highlight=False, markup=False)
    console.print(f"\nResults: {folder}", highlight=False, markup=False, soft_wrap=True)
    return results


def _one(
    name: str,
    settings: TransferSettings,
    grid: FinetuneOptions,
    read: Read,
    seed: int,
    place: Path,
    console: Console,
) -> dict[str, Any]:
    began = time.perf_counter()
    root = Path(str(settings.data_root)).expanduser()
    data = load_transfer(name, root, settings.download, seed, settings.partial_ok)
    place.mkdir(parents=True, exist_ok=True)
    digests = keep_splits(place, data)
    device = best_device()
    outcome = _judge(settings, grid, read, data, place, seed, device, console)
    for note in outcome.notes:
        console.print(f"{name}: {note}", highlight=False, markup=False, soft_wrap=True)
    protocol = f"transfer_{settings.mode}"
    facts = {"splits": digests, "counts": data.counts, "complete": data.complete}
    results = make_results(
        protocol=protocol,
        dataset=name,
        method=read.name,
        metrics=outcome.metrics,
        seed=seed,
        config={**asdict(settings), **facts, **outcome.facts, "notes": outcome.notes},
        environment=environment(device),
        wall_seconds=time.perf_counter() - began,
        published=published(protocol, name) if data.complete else None,
    )
    write_json(place / RESULTS, results)
    return results


def _judge(
    settings: TransferSettings,
    grid: FinetuneOptions,
    read: Read,
    data: TransferData,
    place: Path,
    seed: int,
    device: torch.device,
    console: Console,
) -> Outcome:
    preprocessing = preprocessing_of(read.preprocessing)
    workers = DataOptions(num_workers=settings.num_workers).workers
    backbone = read.backbone.to(device)
    if settings.mode == "finetune":

        def tell(number: int, point: Point) -> None:
            shown = "diverged" if point.metric is None else f"{point.metric:.1%}"
            of = f"{data.name}: {number + 1} of {len(grid.grid)}"
            at = f"lr {point.learning_rate:g}, weight decay {point.weight_decay:g}"
            console.print(f"{of}, {at}: {shown}", highlight=False)

        return run_finetune(
            backbone,
            data,
            preprocessing,
            grid,
            place,
            seed,
            device,
            workers,
            settings.partial_ok,
            tell,
        )
    home = Path(settings.cache_dir).expanduser() if settings.cache_dir else None
    extraction = {
        "cache_dir": (home or erssl_home() / "features") if settings.cache else None,
        "dtype": settings.features_dtype,
        "batch_size": settings.feature_batch_size,
        "num_workers": workers,
    }
    return run_linear(
        backbone,
        data,
        preprocessing,
        extraction,
        device,
        settings.partial_ok,
        settings.tolerance,
        settings.max_iter,
    )


def _folder(settings: TransferSettings, read: Read) -> Path:
    if settings.run_dir is not None:
        return Path(settings.run_dir).expanduser()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"transfer-{settings.mode}-{slug(read.name)}-{stamp}"


def _finished(place: Path) -> dict[str, Any] | None:
    """The result of a data set that is finished, as its file has it."""
    file = place / RESULTS
    if not file.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found["metrics"][TRANSFER_DATASETS[found["dataset"]].metric]
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file} is not what the suite writes; delete it, or start again with overwrite=true."
        ) from error


def _ours(name: str, results: Sequence[Mapping[str, Any]]) -> Row:
    """Mean of the seeds and their deviation, in per cent."""
    found: dict[str, list[float]] = {}
    for result in results:
        metric = TRANSFER_DATASETS[result["dataset"]].metric
        found.setdefault(result["dataset"], []).append(100 * result["metrics"][metric])
    parts = [r["dataset"] for r in results if not r["config"]["complete"]]
    return Row(
        name,
        {dataset: statistics.fmean(values) for dataset, values in found.items()},
        {d: statistics.stdev(values) for d, values in found.items() if len(values) > 1},
        published=False,
        incomplete=list(dict.fromkeys(parts)),
    )
