"""The frame of an evaluation of a backbone that reads no data set by ``data=``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console

from erssl.protocols.ending import end_evaluation
from erssl.protocols.record import folder_for, prepare_folder
from erssl.protocols.subject import Read, assumed_of, slug
from erssl.run.lock import locked
from erssl.run.result import Result
from erssl.settings.evaluation import EvaluationSettings, resolved


class BackboneEvaluation:
    """One evaluation of a backbone: its folder, its clock, its results.

    Attributes:
        path: The folder of the results.
        config: What was asked for, as ``config.yaml`` has it.
    """

    def __init__(
        self, protocol: str, settings: EvaluationSettings, read: Read, dataset: str, **facts: Any
    ) -> None:
        """Choose the folder; nothing is written yet.

        Args:
            protocol: Name of the command.
            settings: What was asked for.
            read: What is evaluated.
            dataset: What it is evaluated on, as results and folder name it.
            **facts: What else belongs into the record, such as the digests of images.

        Raises:
            ConfigError: If processes that something else has started have no run_dir in common.
        """
        self._began = time.perf_counter()
        self._about = {"protocol": protocol, "dataset": dataset, "method": read.name}
        self._settings = settings
        self._preprocessing = dict(read.preprocessing)
        self.config: dict[str, Any] = {
            **resolved(settings),
            **assumed_of(read.backbone),
            **facts,
        }
        self.path = folder_for(settings.run_dir, protocol, slug(read.name), dataset)

    @contextmanager
    def opened(
        self,
        *,
        goes_on: bool = False,
        may_change: Sequence[str] = (),
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Make the folder ready, or go on in it, and keep others out of it inside.

        Args:
            goes_on: Whether the evaluation that is in it goes on.
            may_change: Keys of the command that say where and how it runs, not what it computes.
            check: Called before anything is written.

        Raises:
            ConfigError: If an evaluation that goes on would change.
            RunError: If the folder holds another one or a pretraining, is in use, or cannot be
                written to.
        """
        with locked(self.path):
            check()
            prepare_folder(
                self.path,
                self.config,
                goes_on=goes_on,
                overwrite=self._settings.overwrite,
                rewrite=True,
                may_change=may_change,
            )
            yield

    def finish(
        self,
        metrics: Mapping[str, float],
        device: torch.device,
        console: Console,
        *,
        figures: Sequence[str] = (),
        note: str = "",
    ) -> Result:
        """Write results and report, and print them.

        Args:
            metrics: What came out, in [0, 1]: they are printed in per cent.
            device: Where it was computed.
            console: Where it is printed.
            figures: Names of the figures that the report shows, which are in the folder.
            note: What the report says of the metrics.

        Returns:
            The folder and the content of its ``results.json``.
        """
        return end_evaluation(
            self.path,
            device,
            self._began,
            console,
            figures=figures,
            note=note,
            metrics=dict(metrics),
            seed=self._settings.seed,
            config={**self.config, "preprocessing": self._preprocessing},
            published=None,
            **self._about,
        )
