"""A table of a paper, as the file of a study gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """A table of a paper.

    Attributes:
        title: What it shows.
        source: Paper and table.
        columns: Names of its columns.
        rows: Values of each row by its label; ``None`` where the paper has none.
    """

    title: str
    source: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]


def read_published(said: Mapping[str, Any]) -> Published:
    """Read a table from the ``published`` of a study."""
    rows = {
        str(label): tuple(None if value is None else float(value) for value in values)
        for label, values in said["rows"].items()
    }
    columns = tuple(str(column) for column in said["columns"])
    return Published(str(said["title"]), str(said["source"]), columns, rows)
