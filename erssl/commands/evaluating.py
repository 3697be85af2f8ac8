"""The functions of commands that evaluate a backbone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from erssl.calls import execute, own_process, run_command
from erssl.commands.types import Backbone, Data, Place
from erssl.settings.arguments import overrides_of
from erssl.settings.commands import commands
from erssl.settings.keys import has_own_images, takes_data

if TYPE_CHECKING:
    from erssl.methods import MultiViewMethod
    from erssl.run.result import Result

P = ParamSpec("P")


def knn(
    checkpoint: Place,
    data: Data = None,
    *,
    backbone: Backbone = None,
    feature_dim: int | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Result:
    """Evaluate a backbone by its nearest neighbours: ``erssl knn``.

    Args:
        checkpoint: A run directory, a checkpoint, ``"zoo:<name>"`` or ``"random:<architecture>"``.
        data: As :func:`pretrain` takes it; ``None`` for the images of the run.
        backbone: The module, where the run was of one.
        feature_dim: Width of its features, where neither an attribute of it nor the run says so.
        quiet: Print nothing.
        **overrides: Any key of the command.

    Returns:
        The folder of the evaluation and its metrics.

    Raises:
        ErsslError: If it cannot be done.
    """
    said = {"checkpoint": checkpoint, "data": data}
    return run_command("knn", said, backbone, feature_dim, quiet, overrides)


def transfer(
    checkpoint: Place,
    data_root: Place | None = None,
    *,
    backbone: Backbone = None,
    feature_dim: int | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Result:
    """Evaluate a backbone on eleven other data sets: ``erssl transfer``.

    Args:
        checkpoint: As :func:`knn` takes it.
        data_root: The folder of the data sets; of COCO or VOC for :func:`detect` and
            :func:`segment`. ``None`` where other keys of the command name the images.
        backbone: The module, where the run was of one; for :func:`detect` a ResNet of torchvision.
        feature_dim: Width of its features, where neither an attribute of it nor the run says so.
        quiet: Print nothing.
        **overrides: Any key of the command, such as ``datasets=["dtd", "pets"]``.

    Returns:
        The folder and its metrics in [0, 1]: of each data set on average over the seeds; of
        detection average precisions; of segmentation ``miou`` and accuracies of pixels.

    Raises:
        ErsslError: If it cannot be done.
    """
    said = {"checkpoint": checkpoint, "data_root": data_root}
    return run_command("transfer", said, backbone, feature_dim, quiet, overrides)


def lens(
    checkpoint: Place | Sequence[Place],
    data: Data = None,
    *,
    method: type[MultiViewMethod] | None = None,
    backbone: Backbone = None,
    feature_dim: int | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Result:
    """Read entropy and reconstruction of a checkpoint, or draw those of runs: ``erssl lens``.

    Args:
        checkpoint: As :func:`knn` takes it; or several run directories, whose curves are drawn into
            the figure ``output=``.
        data: As :func:`pretrain` takes it; ``None`` for the images of the run.
        method: The class, where the run was of one.
        backbone: The module, where the run was of one.
        feature_dim: Width of its features, where neither an attribute of it nor the run says so.
        quiet: Print nothing.
        **overrides: Any key of the command.

    Returns:
        The quantities of the lens, or the figure.

    Raises:
        ErsslError: If it cannot be done.
    """
    if not isinstance(checkpoint, str | PathLike):
        with own_process():
            folders = [str(Path(place)) for place in checkpoint]
            return execute("lens", [*folders, *overrides_of(overrides)], quiet)
    said = {"checkpoint": checkpoint, "data": data} | ({"method": method} if method else {})
    return run_command("lens", said, backbone, feature_dim, quiet, overrides)


def evaluation_of(command: str, like: Callable[P, Result]) -> Callable[P, Result]:
    """Make the function of an evaluation whose arguments are those of another one.

    Args:
        command: Its name.
        like: The other one, such as :func:`knn`.
    """
    signature = inspect.signature(like)
    if not has_own_images(command):
        taken = [each for each in signature.parameters.values() if each.name != "data_root"]
        signature = signature.replace(parameters=taken)

    def evaluate(*args: P.args, **kwargs: P.kwargs) -> Result:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        said = dict(bound.arguments)
        overrides = said.pop("overrides")
        backbone, feature_dim = said.pop("backbone"), said.pop("feature_dim")
        return run_command(command, said, backbone, feature_dim, said.pop("quiet"), overrides)

    does = commands()[command]
    evaluate.__name__ = evaluate.__qualname__ = command
    evaluate.__signature__ = signature  # type: ignore[attr-defined]
    evaluate.__doc__ = f"""{does[0].upper()}{does[1:]}: ``erssl {command}``.

    Arguments, result and errors are those of :func:`{like.__name__}`.
    """
    return evaluate


def evaluation_named(command: str) -> Callable[..., Result]:
    """Make the function of an evaluation that has none here: its arguments follow from its keys."""
    return evaluation_of(command, knn if takes_data(command) else transfer)


linear = evaluation_of("linear", knn)
semi = evaluation_of("semi", knn)
finetune = evaluation_of("finetune", knn)
detect = evaluation_of("detect", transfer)
segment = evaluation_of("segment", transfer)
