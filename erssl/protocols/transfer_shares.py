"""``erssl transfer … --multirun``: the suite's data sets and grid points side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from erssl.downstream.transfer.finetune import point_file
from erssl.downstream.transfer.table import TRANSFER_DATASETS
from erssl.errors import ConfigError, DataError, RunError
from erssl.run.directory import RESULTS
from erssl.run.launch import count_jobs, launch
from erssl.run.summary import read_results
from erssl.run.waiting import wait_for_one
from erssl.settings.arguments import MULTIRUN, launcher_overrides
from erssl.settings.transfer import TransferSettings, read_transfer

_SHARE = ("datasets", "seed", "seeds", "points", "table", "jobs", "verify")  # said of each anew
# What a suite that goes on may say differently: which share of it, and where its images and its
# weights, which have a digest, are now.
SHARED_OUT = (*_SHARE, "data_root", "checkpoint")
_STATE = ("run_dir", "resume", "overwrite", "download")


@dataclass(frozen=True)
class Shares:
    """How a suite is shared out.

    Attributes:
        settings: Of the whole suite.
        overrides: What was said of it.
        launcher: Overrides for a launcher of hydra; none for processes of this machine.
    """

    settings: TransferSettings
    overrides: Sequence[str]
    launcher: Sequence[str]

    def run(self, folder: Path, parts: Sequence[tuple[int, str]], console: Console) -> None:
        """Compute every point of the grid, then every data set, and leave each in its place.

        Args:
            folder: Of the suite.
            parts: Seed and data set of each that is not finished.
            console: Where it is said what another process still has in use.

        Raises:
            RunError: If one of them failed.
        """
        if self.settings.mode == "finetune":
            points = range(len(self.settings.grid.grid))
            left = [
                (seed, name, point)
                for (seed, name), point in product(parts, points)
                if not point_file(part_folder(folder, seed, name), point).is_file()
            ]
            self._launch(folder, [self._share(folder, *item) for item in left])
            files = [point_file(part_folder(folder, s, n), p) for s, n, p in left]
            self._require(folder, files)
        for seed, name in parts:  # of a suite that was killed, whose shares end after it
            wait_for_one([part_folder(folder, seed, name)], console)
        self._launch(folder, [self._share(folder, seed, name) for seed, name in parts])
        self._require(folder, [part_folder(folder, s, n) / RESULTS for s, n in parts])

    def _share(self, folder: Path, seed: int, name: str, point: int | None = None) -> list[str]:
        """The command of one share."""
        kept = [
            override
            for override in self.overrides
            if override.partition("=")[0] not in (*_SHARE, *_STATE)
        ]
        own = [f"datasets=[{name}]", f"seed={seed}", "seeds=1", "table=false"]
        own += ["verify=false"] if self.settings.mode == "finetune" else []
        if self.settings.num_workers is None:
            cores = (os.cpu_count() or 1) // count_jobs(self.settings.jobs)
            own.append(f"num_workers={min(8, max(0, cores - 1))}")
        own += [] if point is None else [f"points=[{point}]"]
        return ["transfer", *kept, *own, f"run_dir={folder}", "resume=true"]

    def _launch(self, folder: Path, commands: list[list[str]]) -> None:
        launch(commands, count_jobs(self.settings.jobs), self.launcher, folder / "launch")

    def _require(self, folder: Path, files: Sequence[Path]) -> None:
        if missing := [file for file in files if not file.is_file()]:
            raise RunError(
                f"{len(missing)} of {len(files)} shares of the suite failed, the first of them "
                f"{missing[0].relative_to(folder)} (what it said is above); mend that and go on "
                f"with resume=true run_dir={folder}."
            )


def read_shares(overrides: Sequence[str]) -> tuple[TransferSettings, Shares | None]:
    """The settings, and how the suite is shared out where ``--multirun`` is among the arguments.

    Raises:
        ConfigError: If an override is wrong.
    """
    launcher = launcher_overrides(overrides)
    own = [override for override in overrides if override not in (*MULTIRUN, *launcher)]
    if len(own) + len(launcher) == len(overrides):
        settings = read_transfer(own)
        if launcher or settings.jobs is not None:
            raise ConfigError("jobs= and hydra/launcher= are for several at once; add --multirun.")
        return settings, None
    settings = read_transfer([_listed(override) for override in own])
    if settings.points is not None or not settings.table:
        raise ConfigError("--multirun itself shares out the points; leave out points= and table=.")
    if launcher and settings.jobs is not None:
        raise ConfigError("The launcher says how many run at once; leave out jobs=.")
    return settings, Shares(settings, own, launcher)


def _listed(override: str) -> str:
    """``datasets=dtd,pets``, as hydra writes several values, as the list that it is here."""
    key, _, value = override.partition("=")
    return f"datasets=[{value}]" if key == "datasets" and "[" not in value else override


def part_folder(folder: Path, seed: int, name: str) -> Path:
    """Where a data set's results go."""
    return folder / f"seed{seed}" / name


def finished(place: Path) -> dict[str, Any] | None:
    """The result of a data set that is finished, as its file has it.

    Raises:
        RunError: If the file cannot be read.
    """
    file = place / RESULTS
    if not file.is_file():
        return None
    try:
        results = read_results(file)
        results["metrics"][TRANSFER_DATASETS[results["dataset"]].metric]
        return results
    except (DataError, KeyError) as error:
        raise RunError(
            f"{file} is not what the suite writes; delete it, or start again with overwrite=true."
        ) from error
