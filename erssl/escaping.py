"""Names and other texts of a user's files, escaped for what others open.

A folder, a class or a run may have any name. None of them may be taken for a formula of a
spreadsheet, for a tag of a page, or for the end of a cell, a line or a code span.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from erssl.errors import printable

# Where a spreadsheet would begin to compute, also behind what another program takes for the end of
# a cell or a line, and in the wide forms of East Asian keyboards; the apostrophe is our own mark.
_FORMULA = re.compile(r"^(?=[\t\r\n])|(?:^|(?<=[;\t\r\n]))(?=\s*['=+\-@\uff1d\uff0b\uff0d\uff20])")
_NUMBER = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|inf|nan)", re.ASCII | re.IGNORECASE)
_QUOTED = re.compile(r'[",;\t\r\n]|^\s|\s$')
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_BLOCK = re.compile(r"#{1,6}(?=\s|$)|[-+=](?=\s|[-+=]+$)|(?<=\d)[.)](?=\s|$)")
_MARKS_UP = re.compile(r"\s*(?:#{1,6}(?:\s|$)|[-+=](?:\s|[-+=]+$)|\d{1,9}[.)](?:\s|$))")


def csv_cell(value: object) -> object:
    """Give a cell that no spreadsheet computes.

    Args:
        value: A number stays one, also where it stands as text ("-0.5"); ``None`` is an empty cell.

    Returns:
        The value; where a text, or what follows a semicolon, a tab or a line break in it, begins as
        a formula does or with an apostrophe, stands an apostrophe before. Whoever reads the table
        takes one away at these places.

    Example:
        >>> csv_cell("=1+1"), csv_cell("'s"), csv_cell("-0.5"), csv_cell(-0.5), csv_cell("cat")
        ("'=1+1", "''s", '-0.5', -0.5, 'cat')
    """
    if value is None:
        return ""
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub("'", value)


def csv_table(rows: Iterable[Sequence[object]]) -> str:
    """The text of a CSV file, each cell as `csv_cell` gives it.

    Cells with a comma, a semicolon, a tab, a quotation mark or a line break are quoted, whichever
    of these a program takes for the end of a cell.
    """
    return "".join(",".join(map(_csv_text, cells)) + "\n" for cells in rows)


def _csv_text(value: object) -> str:
    text = str(csv_cell(value))
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def markdown_text(text: object) -> str:
    """A text in one line of Markdown that shows as it is: in a sentence, a heading or a cell.

    Example:
        >>> print(markdown_text("a|b <i>*x*"), markdown_text("simclr_er"))
        a\\|b &lt;i&gt;\\*x\\* simclr_er
    """
    line = _MARKDOWN.sub(r"\\\g<0>", html.escape(printable(str(text)).strip(), quote=False))
    if _MARKS_UP.match(line):
        line = _BLOCK.sub(r"\\\g<0>", line, count=1)
    return line


def markdown_code(text: object) -> str:
    """A text as code in one line of Markdown, also where it holds backticks or tags.

    Example:
        >>> print(markdown_code("erssl knn"), markdown_code("a`b"))
        `erssl knn` <code>a\\`b</code>
    """
    line = printable(str(text))
    plain = line.strip() and not set(line) & set("`<>&|")
    return f"`{line}`" if plain else f"<code>{markdown_text(line)}</code>"


def markdown_row(cells: Iterable[object]) -> str:
    """A line of a Markdown table of cells that are texts, each escaped."""
    return f"| {' | '.join(map(markdown_text, cells))} |"


def markdown_block(text: str, language: str = "") -> list[str]:
    """Lines of a fenced block of code that no line of the text can end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    lines = [printable(line) for line in text.rstrip("\n").split("\n")]
    return [f"{fence}{language}", *lines, fence]


def html_text(text: object) -> str:
    """A text in one line of HTML, between tags or in a quoted attribute."""
    return html.escape(printable(str(text)))
