"""What is printed: sentences that quote names of a user's files, and tables of them."""

from __future__ import annotations

import signal
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from erssl.errors import Stopped, printable
from erssl.run.streams import discard_output


class Terminal(Console):
    """A console that shows every text as it is.

    No name of a file is markup, an emoji or a command to the terminal: square brackets and
    ``:cat:`` stay, control characters and bytes that are no UTF-8 are escaped.
    """

    def __init__(self, **options: Any) -> None:
        """Take what rich's console takes."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> NoReturn:
        """End the command as by a signal where nobody reads any more (``erssl pretrain | head``).

        Raises:
            Stopped: Always; rich would exit with status 1, as of an error. In a Python program
                that calls erssl nothing catches it.
        """
        self.quiet = True
        discard_output()
        raise Stopped("", signal.SIGPIPE)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a text of what is printed, or stands in a cell of a table."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a sentence in one line, as it is; line feeds at its beginning are empty lines."""
    sentence = text.lstrip("\n")
    say_lines(console, "\n" * (len(text) - len(sentence)) + printable(sentence), style)


def say_lines(console: Console, text: str, style: str | None = None) -> None:
    """Print lines as they are, such as those of a table in Markdown."""
    lines = "\n".join(map(printable, text.split("\n")))
    console.print(lines, style=style, highlight=False, markup=False, emoji=False, soft_wrap=True)
