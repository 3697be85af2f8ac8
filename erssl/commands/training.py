"""The functions of commands that train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from erssl.calls import execute, own_process, run_command
from erssl.commands.types import Backbone, Data, Place
from erssl.errors import ConfigError
from erssl.settings.arguments import overrides_of

if TYPE_CHECKING:
    from erssl.methods import MultiViewMethod
    from erssl.run.result import Result


def pretrain(
    method: str | type[MultiViewMethod] | None = None,
    data: Data = None,
    *,
    backbone: Backbone = None,
    feature_dim: int | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Result:
    """Train a backbone without labels and say how good it is: ``erssl pretrain``.

    Args:
        method: Name of a method, or a class of your own; ``None`` for that of ``experiment=`` or of
            the run that is resumed, else mveb.
        data: Name of a data set (``None``: that of the experiment or run, else digits); or a
            map-style data set of images or of (image, class number), before any transform; or a
            pair of two, to train and to evaluate on.
        backbone: Name of a backbone's configuration, or a module that gives features
            (N, feature_dim); a copy of it is trained.
        feature_dim: Width of the module's features, where none of its attributes says so.
        quiet: Print nothing.
        **overrides: Any key of the command.

    Returns:
        The run directory and its metrics. ``erssl.load_backbone(result.path)`` gives the trained
        backbone; of a module of your own ``erssl.load_backbone(result.path, arch=module)``.

    Raises:
        ErsslError: If the run cannot be done; of what can be known before training, nothing has
            been written then.

    Example:
        >>> result = pretrain("mveb", epochs=3, **{"optimizer.base_lr": 0.1})  # doctest: +SKIP
        >>> result.metrics["knn_top1"]  # doctest: +SKIP
        0.91
    """
    return run_command(
        "pretrain", {"method": method, "data": data}, backbone, feature_dim, quiet, overrides
    )


def compare(data: str | None = None, *, quiet: bool = False, **overrides: Any) -> Result:
    """Train with several values of some keys: ``erssl pretrain … --multirun``.

    Each run is a process of its own, so that data set, backbone and method are named.

    Args:
        data: Name of a data set; ``None`` for digits.
        quiet: Print nothing, nor let the runs print.
        **overrides: Any key of the command; a list or tuple holds the values of several runs, of
            which at least one key has two.

    Returns:
        The folder of the runs; ``results["table"]`` has mean and deviation over the seeds.

    Raises:
        ErsslError: If the values are wrong for any of the runs, or a run fails.

    Example:
        >>> compare(method=["simclr", "mveb"], seed=[0, 1], epochs=3)  # doctest: +SKIP
    """
    said = {"data": data} if data is not None else {}
    arguments: list[str] = []
    for key, value in {**said, **overrides}.items():
        if isinstance(value, list | tuple):
            if not value:
                raise ConfigError(f"{key} is an empty list; give its values, or leave it out.")
            values = [each.partition("=")[2] for v in value for each in overrides_of({key: v})]
            said_value = f"choice({','.join(values)})" if len(values) > 1 else values[0]
            arguments.append(f"{key}={said_value}")
        else:
            arguments += overrides_of({key: value})
    with own_process():
        return execute("compare", arguments, quiet)


def study(
    study: Place, scale: str | None = None, *, quiet: bool = False, **overrides: Any
) -> Result:
    """Train the runs of a study that its store lacks, and write its page: ``erssl study``.

    Args:
        study: Name of a study, such as ``"mveb_beta"``, or a YAML file of your own.
        scale: How large its runs are: ``"tiny"``, ``"cifar"`` or ``"imagenet"``.
        quiet: Print nothing.
        **overrides: Keys of the command (``store``, ``output``, ``seeds``, ``only``, ``dry_run``),
            and keys of :func:`pretrain` for all runs, such as ``**{"data.root": "data"}``.

    Returns:
        The folder of the page; ``results["runs"]`` has options, seed and metrics of every run.

    Raises:
        ErsslError: If study, scale or a run of it cannot be; nothing has been trained then.
    """
    said = {"study": study, "scale": scale}
    return run_command("study", said, None, None, quiet, overrides)
