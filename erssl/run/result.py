"""What a command leaves behind, as a Python program gets it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from erssl.escaping import markdown_code

_FIGURES = (".png", ".pdf", ".svg")
_REPORT = "report.md"
_FIGURE_LINK = re.compile(r"^!\[[^\]]*\]\(", re.MULTILINE)


@dataclass(frozen=True)
class Result:
    """What a command came to, and where it lies.

    Attributes:
        path: The run directory, or the file that the command has written.
        metrics: Values by name, those of ``results.json``.
        results: The content of ``results.json``; empty where there is none, and on every process
            but the first.
    """

    path: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, path: Path, results: Mapping[str, Any]) -> Result:
        """Make the result of a run directory from the content of its ``results.json``."""
        return cls(path, results.get("metrics", {}), results)

    @property
    def figures(self) -> tuple[Path, ...]:
        """The figures, in the order of their names."""
        if self.path.is_file():
            return (self.path,) if self.path.suffix in _FIGURES else ()
        files = self.path.iterdir() if self.path.is_dir() else ()
        return tuple(sorted(file for file in files if file.suffix in _FIGURES))

    def _repr_markdown_(self) -> str:
        """Show the report in a notebook, with its figures where the notebook finds them."""
        report = self.path / _REPORT
        if not report.is_file():
            return markdown_code(repr(self))
        folder = quote(self.path.as_posix())
        text = report.read_text(encoding="utf-8")
        return _FIGURE_LINK.sub(lambda link: f"{link[0]}{folder}/", text)
