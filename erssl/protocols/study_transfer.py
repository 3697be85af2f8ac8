"""What a study asks of each finished run besides: ``erssl transfer`` on some data sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from erssl.downstream.transfer.datasets import TRANSFER_DATASETS
from erssl.errors import ErsslError
from erssl.run.children import Children
from erssl.run.console import say
from erssl.run.directory import CONFIG, RESULTS
from erssl.run.summary import read_results
from erssl.run.waiting import wait_for_one
from erssl.settings.arguments import overrides_of
from erssl.settings.transfer import TransferSettings, read_transfer
from erssl.studies.plan import Overrides

PREFIX = "transfer_"  # of the metrics
_GROUP = "transfer."  # before what a user says of it
_PLACES = ("data_root", "num_workers", "cache_dir", "cache", "download")  # of no account


@dataclass(frozen=True)
class Transfer:
    """The transfers of a study's runs.

    Attributes:
        overrides: Of ``erssl transfer``, the user's last.
        settings: The same, checked.
    """

    overrides: tuple[str, ...]
    settings: TransferSettings

    @property
    def metric_names(self) -> tuple[str, ...]:
        """One for each data set, in the order in which they were asked for."""
        return tuple(f"{PREFIX}{name}" for name in self.settings.names)

    def folder(self, run: Path) -> Path:
        """Where the transfers of a run lie: by what they are, not by where the images are."""
        counted = sorted(o for o in self.overrides if o.partition("=")[0] not in _PLACES)
        digest = hashlib.sha256(json.dumps(counted).encode()).hexdigest()
        return run / f"transfer-{digest[:8]}"

    def missing(self, run: Path) -> bool:
        """Whether a run has not been through all of them."""
        done = {file.parent.name for file in self.folder(run).glob(f"seed*/*/{RESULTS}")}
        return not done >= set(self.settings.names)

    def metrics(self, run: Path) -> dict[str, float]:
        """The metric of each data set that is finished, by ``transfer_<data set>``."""
        values = {}
        for file in sorted(self.folder(run).glob(f"seed{self.settings.seed}/*/{RESULTS}")):
            try:
                metrics = read_results(file)["metrics"]
            except ErsslError:
                continue
            name = file.parent.name
            values[f"{PREFIX}{name}"] = float(metrics[TRANSFER_DATASETS[name].metric])
        return values

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
    overrides = overrides_of({**said, **given})
    return Transfer(tuple(overrides), read_transfer([*overrides, "checkpoint=the run"]))
