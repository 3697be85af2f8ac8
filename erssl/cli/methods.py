"""``erssl methods``: what can be trained."""

from __future__ import annotations

from collections.abc import Sequence

from erssl.errors import ConfigError


def help_text() -> str:
    """What ``--help`` prints."""
    return (
        "erssl methods: list the methods with their paper, family, views and target branch\n\n"
        "Usage: erssl methods\n\n"
        "Example: erssl methods\n"
        "Settings of a method and their sources: erssl pretrain method=<name> --help\n"
    )


def run(words: Sequence[str]) -> int:
    """Print the table."""
    if words:
        raise ConfigError(f"erssl methods takes no settings but was given {' '.join(words)}.")
    from rich.console import Console
    from rich.table import Table

    from erssl.methods import available_methods, get_method

    table = Table("method", "family", "views", "target branch", "paper", box=None, pad_edge=False)
    for name in available_methods():
        info = get_method(name).info
        table.add_row(name, info.family, info.views, info.target, info.paper)
    Console(width=120).print(table)
    return 0
