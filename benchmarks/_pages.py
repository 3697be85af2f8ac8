"""Tables of the docs that are written from results, between two marks of the page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_TABLE = r"(<!-- table: {name} -->\n)(?:(?!<!--).)*(<!-- end -->)"


def write_tables(page: Path, tables: Mapping[str, str]) -> None:
    """Put each table between ``<!-- table: NAME -->`` and ``<!-- end -->`` of a page.

    Raises:
        ValueError: If the page has no place for one of them, or more than one.
    """
    text = page.read_text(encoding="utf-8")
    page.write_text(with_tables(text, tables), encoding="utf-8")


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """The page's text with each table in its place."""
    for name, table in tables.items():
        pattern = re.compile(_TABLE.format(name=re.escape(name)), re.DOTALL)
        text, count = pattern.subn(lambda match, t=table: f"{match[1]}{t}\n{match[2]}", text)
        if count != 1:
            raise ValueError(f"The page has {count} places for the table {name}, not one.")
    return text
