"""How a Python program runs a command: objects for names, and its own process left as it was."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from erssl.errors import ConfigError
from erssl.settings.arguments import called_from_python, overrides_of

if TYPE_CHECKING:
    from torch import nn

    from erssl.run.result import Result


def run_command(
    command: str,
    said: Mapping[str, Any],
    backbone: str | nn.Module | None,
    feature_dim: int | None,
    quiet: bool,
    overrides: Mapping[str, Any],
) -> Result:
    """Run a command on overrides, with objects where names would stand.

    Args:
        command: Its name.
        said: Keys that the function names, those that are ``None`` left out; ``data`` may be a data
            set, ``method`` a class.
        backbone: The name of a configuration, or a module.
        feature_dim: Width of the module's features, where none of its attributes says so.
        quiet: Whether nothing is printed.
        overrides: Further keys.

    Raises:
        ErsslError: If it cannot be done.
    """
    from torch import nn

    with own_process(), ExitStack() as objects:
        named = {key: value for key, value in said.items() if value is not None}
        if "data" in named and not isinstance(named["data"], str):
            from erssl.data.given import given_data

            objects.enter_context(given_data(named["data"]))
            named["data"] = "object"
        method = named.get("method")
        if isinstance(method, nn.Module):
            name = type(method).__name__
            raise ConfigError(f"method is a {name} that is built; give the class: method={name}.")
        if inspect.isclass(method):
            from erssl.methods.registry import given_method

            name = objects.enter_context(given_method(named.pop("method")))
            named |= {"method": name} if command == "pretrain" else {}
        if inspect.isclass(backbone) or not isinstance(backbone, str | nn.Module | None):
            raise ConfigError(
                f"backbone={getattr(backbone, '__name__', type(backbone).__name__)} is no module; "
                "give one that is built, as backbone=Network(), or the name of a configuration."
            )
        if isinstance(backbone, nn.Module):
            from erssl.models.given import WIDTH_KEY, given_backbone

            objects.enter_context(given_backbone(backbone, feature_dim))
            if command == "pretrain":  # the run keeps the width that the module does not say
                said_width = {} if feature_dim is None else {WIDTH_KEY: feature_dim}
                named |= {"backbone": "object", **said_width}
        elif feature_dim is not None:
            raise ConfigError("feature_dim is that of a module; give it as backbone=, or leave it.")
        elif backbone is not None:
            named["backbone"] = backbone
        return execute(command, overrides_of(named | dict(overrides)), quiet)


def execute(command: str, arguments: list[str], quiet: bool) -> Result:
    """Run a command on the arguments of the command line; inside :func:`own_process`."""
    from erssl.run.children import silent_children
    from erssl.run.console import Terminal
    from erssl.run.directory import command_of_python
    from erssl.run.faults import naming_faults
    from erssl.run.streams import spelling_out

    engine = importlib.import_module(f"erssl.protocols.{command}")
    with (
        command_of_python([command, *arguments]),
        spelling_out(),
        naming_faults(),
        silent_children(quiet),
        called_from_python(),
    ):
        result: Result = engine.run(arguments, Terminal(quiet=quiet))
    return result


@contextmanager
def own_process() -> Iterator[None]:
    """Give back what a command changes for its whole process: a caller has a program of its own."""
    import logging
    import os
    import warnings

    import torch
    from pytorch_lightning.utilities.seed import isolate_rng

    from erssl.run.directory import RUN_DIR_VARIABLE

    lightning = logging.getLogger("pytorch_lightning")
    level, threads, kind = lightning.level, torch.get_num_threads(), torch.get_default_dtype()
    variables = dict(os.environ)
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    with isolate_rng(), warnings.catch_warnings():
        try:
            yield
        finally:
            lightning.setLevel(level)
            torch.set_num_threads(threads)
            torch.set_default_dtype(kind)
            for name in os.environ.keys() - variables.keys():
                del os.environ[name]
            os.environ.update(variables)
            os.environ.pop(RUN_DIR_VARIABLE, None)  # of the first command of a script alone
            torch.use_deterministic_algorithms(strict, warn_only=warns)
            torch.backends.cudnn.benchmark = benchmark
