"""Lightning's CSV logger, made to go on where a resumed run stopped."""

from __future__ import annotations

import csv
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger


class ResumableCSVLogger(CSVLogger):
    """Write ``metrics.csv`` straight into the run directory.

    Lightning deletes the file when a new logger is made; a resumed run keeps the rows
    of the steps before its checkpoint.
    """

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        """Log into ``run_dir``, keeping rows before ``resume_step`` where it is given."""
        kept: list[dict[str, str]] = []
        file = run_dir / "metrics.csv"
        if resume_step is not None and file.is_file():
            with file.open(newline="", encoding="utf-8") as rows:
                # A row that the end of the earlier process cut off has no step.
                complete = (row for row in csv.DictReader(rows) if (row["step"] or "").isdigit())
                kept = [row for row in complete if int(row["step"]) < resume_step]
        super().__init__(save_dir=run_dir, name="", version="", flush_logs_every_n_steps=50)
        for row in kept:
            values = {k: float(v) for k, v in row.items() if v and k != "step"}
            self.experiment.log_metrics(values, step=int(row["step"]))
