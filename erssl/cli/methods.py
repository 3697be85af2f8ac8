"""``erssl methods``: what can be trained, and by which defaults."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib.resources import files

from erssl.errors import ConfigError


def run(words: Sequence[str]) -> int:
    """Print all methods, or the settings of those that are named."""
    if any("=" in word or word.startswith("-") for word in words):
        raise ConfigError(
            f"erssl methods takes names of methods but was given {' '.join(words)}; settings are "
            "for erssl pretrain."
        )
    if words:
        for name in words:
            _show(name)
        return 0
    from rich.console import Console
    from rich.table import Table

    from erssl.methods import available_methods, get_method

    table = Table("method", "family", "views", "target branch", "paper", box=None, pad_edge=False)
    for name in available_methods():
        info = get_method(name).info
        table.add_row(name, info.family, info.views, info.target, info.paper)
    console = Console(width=140, highlight=False)
    console.print(table)
    console.print("\nDefaults (erssl methods <name> shows the source of each):")
    for name in available_methods():
        console.print(f"  [bold]{name}[/bold] {_defaults(name)}", soft_wrap=True)
    return 0


def _show(name: str) -> None:
    """The method's own settings as its file has them, and its optimiser."""
    from erssl.methods import get_method

    method = get_method(name)
    file = files("erssl.configs") / "method" / f"{name}.yaml"
    print(file.read_text(encoding="utf-8") if file.is_file() else f"# {method.info.paper}")
    options = method.default_optimizer
    print(
        f"# The paper's optimiser: {options.name}, base_lr {options.base_lr:g}, weight_decay "
        f"{options.weight_decay:g}, warm-up {options.warmup_epochs} epochs.\n"
    )


def _defaults(name: str) -> str:
    """Options of the class and their defaults, those of its parents included."""
    from erssl.methods import MultiViewMethod, get_method

    shown: dict[str, object] = {}
    method = get_method(name)
    for parent in method.__mro__[: method.__mro__.index(MultiViewMethod)]:
        for key, parameter in inspect.signature(parent).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                shown.setdefault(key, parameter.default)
    if "momentum" in method.info.target:
        shown |= dict(zip(("momentum_start", "momentum_end"), method.default_momentum, strict=True))
    return " ".join(f"{key}={value}" for key, value in shown.items())
