"""``metrics.csv``, made to go on where a resumed run stopped."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from erssl.errors import ErsslWarning
from erssl.escaping import csv_table
from erssl.files import write_rows
from erssl.run.directory import DAMAGED_METRICS, METRICS


class ResumableCSVLogger(CSVLogger):
    """Write ``metrics.csv`` straight into the run directory.

    Lightning deletes the file when a new logger is made, and rewrites it in place when a column
    comes in; here a process may be killed at any moment, and a resumed run keeps the rows of the
    steps before its checkpoint.
    """

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        """Log into ``run_dir``, keeping rows before ``resume_step`` where it is given."""
        super().__init__(save_dir=run_dir, name="", version="")
        self._resume_step = resume_step
        self._file: _MetricsFile | None = None
        self.experiment  # noqa: B018 - makes the file, on the first process only

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The file; nothing that writes on other processes than the first."""
        if self._file is None:
            self._file = _MetricsFile(Path(self.save_dir) / METRICS, self._resume_step)
            self._experiment: Any = self._file  # which Lightning looks at in finalize
        return self._file

    @rank_zero_only
    def flush(self) -> None:
        """Let all rows so far reach the disk."""
        if self._file is not None:
            self._file.save()
            self._file.flush()


class _MetricsFile:
    """Rows by column name; what is there stays as it is, letter by letter."""

    def __init__(self, path: Path, before: int | None) -> None:
        self.path = path
        self.metrics: list[dict[str, Any]] = []
        self.columns: list[str] = []
        kept: list[dict[str, str]] = []
        if before is not None and path.is_file():
            try:
                kept = _rows_before(path, before)
            except (ValueError, KeyError, csv.Error):
                path.replace(path.with_name(DAMAGED_METRICS))
                rank_zero_warn(
                    f"{path} is no table as a run writes it, so it is now {DAMAGED_METRICS}; the "
                    "curves begin anew where the run goes on.",
                    category=ErsslWarning,
                )
        if kept:
            self.columns = list(kept[0])
            self._rewrite(kept)
        else:
            path.unlink(missing_ok=True)

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Take a row."""
        values = {k: v.item() if hasattr(v, "item") else v for k, v in metrics.items()}
        self.metrics.append({**values, "step": step})

    def log_hparams(self, params: Mapping[str, Any]) -> None:
        """Nothing: ``config.yaml`` has them."""

    def save(self) -> None:
        """Append the rows that were taken; a new column means a new file in its place."""
        if not self.metrics:
            return
        columns = sorted({*self.columns, *(name for row in self.metrics for name in row)})
        rows, self.metrics = self.metrics, []
        if columns != self.columns:
            kept: list[dict[str, str]] = []
            if self.path.is_file():
                with self.path.open(newline="", encoding="utf-8") as file:
                    kept = list(csv.DictReader(file))
            self.columns = columns
            self._rewrite([*kept, *rows])
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(csv_table([row.get(name) for name in columns] for row in rows))

    def flush(self) -> None:
        """Let the file reach the disk."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        table = ([row.get(name) for name in self.columns] for row in rows)
        write_rows(self.path, [self.columns, *table])


def _rows_before(path: Path, step: int) -> list[dict[str, str]]:
    """The rows of a file that belong to steps before this one.

    Raises:
        ValueError: If it is no text.
        KeyError: If it has no column of steps.
    """
    with path.open(newline="", encoding="utf-8") as rows:
        # A row that the end of the earlier process cut off has no step.
        complete = (row for row in csv.DictReader(rows) if (row["step"] or "").isdigit())
        return [row for row in complete if int(row["step"]) < step]
