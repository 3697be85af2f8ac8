"""What a study asks of each finished run besides: ``erssl transfer`` on some data sets."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from erssl.data.places import content_of
from erssl.downstream.transfer.datasets import TRANSFER_DATASETS
from erssl.errors import ConfigError, DataError
from erssl.paths import user_path
from erssl.protocols.transfer_shares import SHARED_OUT, part_folder
from erssl.run.children import Children
from erssl.run.console import say
from erssl.run.directory import CONFIG, RESULTS
from erssl.run.summary import read_results
from erssl.run.waiting import wait_for_one
from erssl.settings.arguments import overrides_of
from erssl.settings.evaluation_resume import may_change
from erssl.settings.transfer import TransferSettings, read_transfer
from erssl.studies.grid import Overrides
from erssl.studies.metrics import TRANSFER_PREFIXES

_GROUP = "transfer."  # before what a user says of it


@dataclass(frozen=True)
class Transfer:
    """The transfers of a study's runs.

    Attributes:
        overrides: Of ``erssl transfer``, the user's last.
        settings: The same, checked.
        given: The user's alone, as the user says them.
    """

    overrides: tuple[str, ...]
    settings: TransferSettings
    given: tuple[str, ...] = ()

    @property
    def metric_names(self) -> tuple[str, ...]:
        """One for each data set, in the order in which they were asked for."""
        return tuple(map(self._metric_name, self.settings.names))

    def folder(self, run: Path) -> Path:
        """Where the transfers of a run lie: by what they are, not by where the images are.

        Each seed has a folder of its own below, so that there may be more of them later.
        """
        counted = {
            key: value
            for key, value in asdict(self.settings).items()
            if key not in SHARED_OUT and not may_change(key)
        }
        counted["datasets"] = sorted(self.settings.names)
        text = json.dumps(counted, sort_keys=True)
        return run / f"transfer-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def missing(self, run: Path) -> bool:
        """Whether a run has not been through all of them, with every seed."""
        return not all(
            self._read(file) for name in self.settings.names for file in self._files(run, name)
        )

    def metrics(self, run: Path) -> dict[str, float]:
        """The metric of each data set that is finished with every seed, on average over them."""
        values = {}
        for name in self.settings.names:
            metric = TRANSFER_DATASETS[name].metric
            of_seeds = [self._read(file).get(metric) for file in self._files(run, name)]
            having = [value for value in of_seeds if value is not None]
            if len(having) == len(of_seeds):
                values[self._metric_name(name)] = statistics.fmean(having)
        return values

    @property
    def that_counts(self) -> tuple[str, ...]:
        """Of what the user has given, what a transfer lies by."""
        keys = {o: o.removeprefix(_GROUP).partition("=")[0] for o in self.given}
        return tuple(o for o, k in keys.items() if not (k in SHARED_OUT or may_change(k)))

    def check_images(self, runs: Sequence[Path]) -> None:
        """Refuse a folder of the data sets before hours of pretraining.

        Args:
            runs: The directories of the study's runs.

        Raises:
            ConfigError: If it is not there, and nothing is to be downloaded to it, or if transfers
                that are there are of another folder with other content.
        """
        root = user_path(str(self.settings.data_root))
        if not (root.is_dir() or self.settings.download):
            raise ConfigError(
                f"transfer.data_root={self.settings.data_root} does not exist; name the folder of "
                "the data sets."
            )
        for run in runs:
            for file in (f for name in self.settings.names for f in self._files(run, name)):
                if file.is_file() and not self._read(file):
                    raise ConfigError(
                        f"{file} cannot be read, or is of other images than those in "
                        f"transfer.data_root={self.settings.data_root}; name the folder that it "
                        f"was made with, or move {self.folder(run)} away."
                    )

    def _read(self, file: Path) -> dict[str, float]:
        """The metrics of a file; none where it is not there, or of other images than these.

        Images that are gone are taken on trust.
        """
        try:
            results = read_results(file)
        except DataError:
            return {}
        now = str(user_path(str(self.settings.data_root)))
        before = str(user_path(str(results["config"].get("data_root") or now)))
        moved = now != before and os.path.exists(now) and os.path.exists(before)
        if moved and content_of(now) != content_of(before):
            return {}
        return dict(results["metrics"])

    def _metric_name(self, name: str) -> str:
        return f"{TRANSFER_PREFIXES[self.settings.mode]}{name}"

    def _files(self, run: Path, name: str) -> list[Path]:
        """The results of a data set, one file a seed."""
        seeds = range(self.settings.seed, self.settings.seed + self.settings.seeds)
        return [part_folder(self.folder(run), seed, name) / RESULTS for seed in seeds]

    def run(self, runs: Sequence[Path], console: Console) -> None:
        """Transfer every run that lacks some; what fails is said, and the others go on."""
        for number, path in enumerate(runs, 1):
            say(console, f"\nTransfer {number} of {len(runs)}: {path.name}")
            folder = self.folder(path)
            wait_for_one([folder], console)
            if not self.missing(path):  # another process has finished it meanwhile
                continue
            state = f"resume={(folder / CONFIG).is_file()}".lower()
            with Children().ended_together() as children:
                status = children.run(
                    [
                        "transfer",
                        f"checkpoint={path}",
                        *self.overrides,
                        f"run_dir={folder}",
                        state,
                    ]
                )
            if status:
                say(console, f"The transfer of {path.name} ended with status {status}.")


def split_overrides(further: Sequence[str]) -> tuple[list[str], list[str]]:
    """What a user says of the transfers (``transfer.data_root=/data``), and of the runs."""
    own = [o.removeprefix(_GROUP) for o in further if o.startswith(_GROUP)]
    return own, [o for o in further if not o.startswith(_GROUP)]


def read_study_transfer(said: Overrides, own: Sequence[str]) -> Transfer:
    """The transfers that a study asks for, checked before any training.

    Args:
        said: What its file says.
        own: What the user says.

    Raises:
        ConfigError: If a key or value is wrong, or nobody says where the data sets are.
    """
    given = dict(override.partition("=")[::2] for override in own)
    if "data_root" not in {*said, *given}:
        raise ConfigError("This study needs transfer.data_root=<the folder of the data sets>.")
    overrides = overrides_of({**said, **given})
    settings = read_transfer([*overrides, "checkpoint=the run"])
    return Transfer(tuple(overrides), settings, tuple(f"{_GROUP}{each}" for each in own))
