"""``erssl methods``: what can be trained, and by which defaults."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from erssl.errors import ConfigError
from erssl.methods import available_methods, get_method
from erssl.run.console import say
from erssl.settings.compose import recipe_of


def run(arguments: Sequence[str], console: Console) -> None:
    """Print all methods, or the settings of those that are named."""
    if any("=" in argument or argument.startswith("-") for argument in arguments):
        raise ConfigError(
            f"erssl methods takes names of methods but was given {' '.join(arguments)}; settings "
            "are for erssl pretrain."
        )
    if arguments:
        for name in arguments:
            _show(name)
        return
    heads = ("method", "keeps the entropy up by", "views", "target branch", "paper")
    table = Table(*heads, box=None, pad_edge=False)
    for name in available_methods():
        info = get_method(name).info
        table.add_row(name, info.entropy or info.family, info.views, info.target, info.paper)
    console.width = 140
    console.print(table)
    console.print(
        "\nDefaults (erssl methods <name> shows the source of each, and what reconstructs):"
    )
    for name in available_methods():
        say(console, f"  {name} {_defaults(name)}")


def _show(name: str) -> None:
    """The terms of the method's bound, and its recipe, each value with its source."""
    recipe, info = recipe_of(name), get_method(name).info
    if info.entropy:
        print(f"# Keeps the entropy up by: {info.entropy}")
        print(f"# Reconstructs by: {info.reconstruction}")
    print(recipe.text)


def _defaults(name: str) -> str:
    """The method's own options, as its recipe has them."""
    return " ".join(f"{key}={value}" for key, value in recipe_of(name).options.items())
