"""``erssl report``: any number of results in one table."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from erssl.errors import ConfigError, DataError
from erssl.files import write_text
from erssl.paths import user_path
from erssl.protocols.rank import ranking
from erssl.run.console import say, say_lines
from erssl.run.directory import RESULTS
from erssl.run.plots import Plots
from erssl.run.result import Result
from erssl.run.results_figure import plot_results
from erssl.run.summary import Summary, collect
from erssl.settings.arguments import is_setting
from erssl.settings.hints import nearest, unknown_setting

_WIDTH = 140  # columns of the table
_KEYS = ("output", "plots", "rank")


def run(arguments: Sequence[str], console: Console) -> Result:
    """Collect results, print and write their table."""
    own = dict(argument.partition("=")[::2] for argument in arguments if is_setting(argument))
    for argument in arguments:
        dashed = argument.startswith("-") and not user_path(argument).exists()
        if dashed or (is_setting(argument) and argument.partition("=")[0] not in _KEYS):
            raise ConfigError(unknown_setting(argument, _KEYS))
    places = [argument for argument in arguments if not is_setting(argument)]
    if not places:
        raise DataError("erssl report needs run directories, or a folder that holds some.")
    folder = user_path(own.get("output", "report"))
    plots: Any = own.get("plots", "png")
    if plots not in get_args(Plots):
        raise ConfigError(f"plots={plots} is unknown; {nearest(plots, get_args(Plots))}")
    if folder.is_file():
        raise ConfigError(f"output={folder} is a file; name a folder.")
    if (folder / RESULTS).is_file():
        raise ConfigError(f"output={folder} holds a run, which has a report.md of its own.")
    summary = collect(places)
    ranked = ranking(summary, own["rank"]) if "rank" in own else None
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _write(summary, folder, plots, ranked)
    except OSError:
        if new:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()
        raise
    console.width = max(_WIDTH, console.width)
    table = Table(box=None, pad_edge=False)
    for name in summary.header():
        table.add_column(name, no_wrap=name not in ("setting", "folder"), overflow="fold")
    for row in summary.rows():
        table.add_row(*row)
    console.print(table)
    if ranked is not None:
        say_lines(console, f"\n{ranked}")
    say(console, f"\nWritten: {folder}")
    return Result(folder, results={"rows": summary.rows()})


def _write(summary: Summary, folder: Path, plots: Plots, ranked: str | None) -> None:
    drawn = plot_results(summary.entries, folder / "report.png", plots)
    image = "report.png" if drawn else None
    markdown = summary.markdown() + (f"\n![accuracies]({image})\n" if image else "")
    markdown += f"\n{ranked}\n" if ranked else ""
    write_text(folder / "report.md", markdown)
    write_text(folder / "report.html", summary.html(image))
    write_text(folder / "report.csv", summary.csv())
