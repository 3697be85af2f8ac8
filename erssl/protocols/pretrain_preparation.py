"""What a pretraining needs, built and checked before anything of it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from rich.console import Console

from erssl.data import SSLDataModule
from erssl.data.phases import telling
from erssl.errors import RunError
from erssl.evaluation.whitening import check_whitening
from erssl.methods import MultiViewMethod
from erssl.models import quicken_small_maps
from erssl.models.small_maps import as_torch_computes
from erssl.protocols.build import build_method, check_images, check_method
from erssl.protocols.folder_defaults import fit_to_images, may_fit
from erssl.protocols.header import header_lines
from erssl.protocols.precision import may_be_half, with_precision
from erssl.protocols.pretrain_measures import with_neighbours
from erssl.protocols.start import load_heads, start_of, told
from erssl.protocols.trainer import resumed
from erssl.run.checkpoint_files import Resumed, has_checkpoint
from erssl.run.console import say
from erssl.run.directory import CONFIG, LAST_CHECKPOINT, RESULTS
from erssl.settings.pretrain import stored_config
from erssl.settings.pretrain_options import PretrainSettings
from erssl.settings.trainer import check_batches


@dataclass(frozen=True)
class Prepared:
    """A pretraining whose parts fit together.

    Attributes:
        settings: Of the run, fitted to its images and its machine.
        config: The resolved config that says the same.
        sources: Where the values of the config come from, by dotted key.
        path: The run directory.
        probe: A trainer with the run's devices.
        data: The images.
        method: The network and its loss.
        resumed_from: The checkpoint that the run goes on from; ``None`` at its beginning.
        epochs_before: Epochs that the run directory was made for; those of now where it is new.
        precision: What the header says of the precision beside its name; empty for nothing.
        start: What the header says of the weights that the run starts from; empty for random ones.
        tell: Says a sentence, on the first process only.
    """

    settings: PretrainSettings
    config: Mapping[str, Any]
    sources: Mapping[str, str]
    path: Path
    probe: Trainer
    data: SSLDataModule
    method: MultiViewMethod
    resumed_from: Resumed | None
    epochs_before: int
    precision: str
    start: str
    tell: Callable[[str], None]

    @property
    def first(self) -> bool:
        """Whether this is the first process of the run, which alone writes, measures and speaks."""
        return self.probe.is_global_zero

    @property
    def longer(self) -> bool:
        """Whether the run goes on for more epochs than it was begun for."""
        return self.epochs_before < self.settings.epochs

    @property
    def finished(self) -> bool:
        """Whether the run directory holds the results of a whole training."""
        return (self.path / RESULTS).is_file()

    def header(self) -> list[str]:
        """The lines that say what is trained on what, where, and in how many steps."""
        lines = header_lines(
            self.settings,
            self.data,
            self.method,
            self.probe,
            self.path,
            self.precision,
            self.sources,
            self.resumed_from,
        )
        return [self.start, *lines] if self.start else lines


def prepare(
    settings: PretrainSettings,
    config: Mapping[str, Any],
    sources: Mapping[str, str],
    path: Path,
    probe: Trainer,
    console: Console,
) -> Prepared:
    """Read the images, build the method, and see that all of a run fits together.

    Args:
        settings: The run.
        config: Its resolved config.
        sources: Where the values of the config come from, by dotted key.
        path: The run directory, which is read where the run is resumed.
        probe: A trainer with the run's devices.
        console: Where the phases are told.

    Raises:
        ErsslError: If it does not.
    """
    resumed_from = _resumed(path) if settings.resume else None
    tell = partial(say, console) if probe.is_global_zero else _silent
    fits = may_fit(settings, sources)  # to the images, whose number is known only then
    each = 1 if fits else settings.batch_size // probe.world_size
    check_images(settings, each)
    start = start_of(settings, resumed_from is not None)
    check_method(settings, settings.batch_size // probe.world_size, start)
    with telling(tell):
        data = SSLDataModule(settings.data, each, settings.seed)
    settings, config, sources = fit_to_images(settings, config, sources, data, probe.world_size)
    data.validate(probe.world_size)
    check_batches(settings.trainer, len(data.datasets.train) // settings.batch_size)
    method = build_method(settings, data.training_classes, data.batch_size, start)
    if settings.evaluation.whiten and data.measurable:
        width = int(getattr(method.backbone, "feature_dim", 0))
        check_whitening(len(data.datasets.evaluated().train), width)
    on_cpu = probe.strategy.root_device.type == "cpu"
    quickened = on_cpu and may_be_half(settings) and not settings.compile
    if quickened:
        quicken_small_maps(method)  # before it is tried in half precision
    settings, config, sources, precision = with_precision(
        settings, config, sources, probe, path, method
    )
    if quickened and not may_be_half(settings):  # as in this run, resumed
        as_torch_computes(method)
    said = "" if start is None else told(settings, start, load_heads(method, settings))
    settings = with_neighbours(settings, data, console if probe.is_global_zero else None)
    before = int(stored_config(path / CONFIG)["epochs"]) if settings.resume else settings.epochs
    if before < settings.epochs and (path / RESULTS).is_file() and resumed_from is None:
        raise RunError(
            f"{path} is finished and has no checkpoint, so it cannot be made longer; put its "
            f"{LAST_CHECKPOINT} back, or name a new run_dir."
        )
    return Prepared(
        settings=settings,
        config=config,
        sources=sources,
        path=path,
        probe=probe,
        data=data,
        method=method,
        resumed_from=resumed_from,
        epochs_before=before,
        precision=precision,
        start=said,
        tell=tell,
    )


def _resumed(path: Path) -> Resumed | None:
    """The checkpoint of a run that was begun; ``None`` where it has none yet."""
    if not (path / CONFIG).is_file():
        begun = (path / RESULTS).exists() or has_checkpoint(path / LAST_CHECKPOINT)
        way = "put a copy of it back" if begun else "name the run_dir of a run that was started"
        raise RunError(
            f"resume=true but the file {path / CONFIG} does not exist; {way}, or leave resume out "
            "and name a new run_dir."
        )
    return resumed(path)


def _silent(sentence: str) -> None:
    """Say nothing, on all processes but the first."""
