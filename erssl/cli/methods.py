"""``erssl methods``: what can be trained, and by which defaults."""

from __future__ import annotations

from collections.abc import Sequence

from erssl.errors import ConfigError


def run(arguments: Sequence[str]) -> int:
    """Print all methods, or the settings of those that are named."""
    if any("=" in argument or argument.startswith("-") for argument in arguments):
        raise ConfigError(
            f"erssl methods takes names of methods but was given {' '.join(arguments)}; settings "
            "are for erssl pretrain."
        )
    if arguments:
        for name in arguments:
            _show(name)
        return 0
    from rich.table import Table

    from erssl.methods import available_methods, get_method
    from erssl.run.console import Terminal, say

    table = Table("method", "family", "views", "target branch", "paper", box=None, pad_edge=False)
    for name in available_methods():
        info = get_method(name).info
        table.add_row(name, info.family, info.views, info.target, info.paper)
    console = Terminal(width=140)
    console.print(table)
    console.print("\nDefaults (erssl methods <name> shows the source of each):")
    for name in available_methods():
        say(console, f"  {name} {_defaults(name)}")
    return 0


def _show(name: str) -> None:
    """The terms of the method's bound, and its recipe, each value with its source."""
    from erssl.methods import get_method
    from erssl.settings.compose import recipe_of

    recipe, info = recipe_of(name), get_method(name).info
    if info.entropy:
        print(f"# Keeps the entropy up by: {info.entropy}")
        print(f"# Reconstructs by: {info.reconstruction}")
    print(recipe.text)


def _defaults(name: str) -> str:
    """The method's own options, as its recipe has them."""
    from erssl.settings.compose import recipe_of

    return " ".join(f"{key}={value}" for key, value in recipe_of(name).options.items())
