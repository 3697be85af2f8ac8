"""Printing sentences that quote names of a user's files."""

from __future__ import annotations

from rich.console import Console

from erssl.errors import printable


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a text as it is.

    Square brackets and ``:cat:`` in a path are no markup, and bytes of a name that are no UTF-8 are
    escaped.
    """
    lines = "\n".join(map(printable, text.split("\n")))
    console.print(lines, style=style, highlight=False, markup=False, emoji=False, soft_wrap=True)
