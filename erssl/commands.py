"""The commands of ``erssl`` as Python functions.

Each takes the keys of its command, as keywords or, where a key has a dot, from a dictionary:
``erssl.pretrain("mveb", data="cifar10", epochs=3, **{"optimizer.base_lr": 0.1})``. It leaves the
run directory that the command leaves and returns a :class:`~erssl.run.result.Result`. In place of
names it takes a data set, a backbone and a method as objects. Errors are those of
:mod:`erssl.errors`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias

from erssl.calls import execute, own_process, run_command
from erssl.settings.arguments import overrides_of
from erssl.settings.commands import commands, evaluations

if TYPE_CHECKING:
    from torch import nn

    from erssl.data.given import GivenData
    from erssl.methods import MultiViewMethod
    from erssl.run.result import Result

__all__ = [
    "compare",
    "detect",
    "embed",
    "export",
    "finetune",
    "knn",
    "lens",
    "linear",
    "predict",
    "pretrain",
    "report",
    "segment",
    "semi",
    "study",
    "transfer",
]

Place: TypeAlias = "str | PathLike[str]"
Data: TypeAlias = "str | GivenData | None"
Backbone: TypeAlias = "str | nn.Module | None"
P = ParamSpec("P")


def __getattr__(name: str) -> Any:
    """Give the function of an evaluation that has none of its own here."""
    if name in evaluations():
        return evaluation_of(name, knn)
    raise AttributeError(f"module 'erssl.commands' has no attribute {name!r}")


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
        quiet: Print nothing but what the runs print.
        **overrides: Any key of the command; a list or tuple holds the values of several runs.

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
            values = [each.partition("=")[2] for v in value for each in overrides_of({key: v})]
            arguments.append(f"{key}=choice({','.join(values)})")
        else:
            arguments += overrides_of({key: value})
    with own_process():
        return execute("compare", arguments, quiet)


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
        feature_dim: Width of its features, where none of its attributes says so.
        quiet: Print nothing.
        **overrides: Any key of the command.

    Returns:
        The folder of the evaluation and its metrics.

    Raises:
        ErsslError: If it cannot be done.
    """
    return _evaluate("knn", checkpoint, data, backbone, feature_dim, quiet, overrides)


def _evaluate(
    command: str,
    checkpoint: Place,
    data: Data,
    backbone: Backbone,
    feature_dim: int | None,
    quiet: bool,
    overrides: Mapping[str, Any],
) -> Result:
    said = {"checkpoint": checkpoint, "data": data}
    return run_command(command, said, backbone, feature_dim, quiet, overrides)


def evaluation_of(command: str, like: Callable[P, Result]) -> Callable[P, Result]:
    """Make the function of an evaluation whose arguments are those of another one.

    Args:
        command: Its name.
        like: The other one, such as :func:`knn`.
    """
    signature = inspect.signature(like)

    def evaluate(*args: P.args, **kwargs: P.kwargs) -> Result:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return _evaluate(command, **bound.arguments)

    does = commands()[command]
    evaluate.__name__ = evaluate.__qualname__ = command
    evaluate.__signature__ = signature  # type: ignore[attr-defined]
    evaluate.__doc__ = f"""{does[0].upper()}{does[1:]}: ``erssl {command}``.

    Arguments, result and errors are those of :func:`{like.__name__}`.
    """
    return evaluate


linear = evaluation_of("linear", knn)
semi = evaluation_of("semi", knn)
finetune = evaluation_of("finetune", knn)


def transfer(
    checkpoint: Place, data_root: Place, *, quiet: bool = False, **overrides: Any
) -> Result:
    """Evaluate a backbone on eleven other data sets: ``erssl transfer``.

    Args:
        checkpoint: As :func:`knn` takes it.
        data_root: The folder of the data sets.
        quiet: Print nothing.
        **overrides: Any key of the command, such as ``datasets=["dtd", "pets"]``.

    Returns:
        The folder, and the metric of each data set on average over the seeds, in [0, 1].

    Raises:
        ErsslError: If it cannot be done.
    """
    said = {"checkpoint": checkpoint, "data_root": data_root}
    return run_command("transfer", said, None, None, quiet, overrides)


def detect(
    checkpoint: Place, data_root: Place | None = None, *, quiet: bool = False, **overrides: Any
) -> Result:
    """Evaluate a backbone by detection on COCO or VOC: ``erssl detect``.

    Args:
        checkpoint: As :func:`knn` takes it.
        data_root: The folder of COCO or VOC; ``None`` where keys name its parts.
        quiet: Print nothing.
        **overrides: Any key of the command, such as ``backend="torchvision"``.

    Returns:
        The folder, and average precisions in [0, 1].

    Raises:
        ErsslError: If it cannot be done.
    """
    said = {"checkpoint": checkpoint, "data_root": data_root}
    return run_command("detect", said, None, None, quiet, overrides)


def segment(
    checkpoint: Place, data_root: Place, *, quiet: bool = False, **overrides: Any
) -> Result:
    """Evaluate a backbone by linear segmentation on VOC or COCO masks: ``erssl segment``.

    Args:
        checkpoint: As :func:`knn` takes it.
        data_root: The folder of VOC, or with ``masks="coco"`` of COCO.
        quiet: Print nothing.
        **overrides: Any key of the command, such as ``iterations=5000``.

    Returns:
        The folder, and ``miou`` and accuracies of pixels in [0, 1].

    Raises:
        ErsslError: If it cannot be done.
    """
    said = {"checkpoint": checkpoint, "data_root": data_root}
    return run_command("segment", said, None, None, quiet, overrides)


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
        feature_dim: Width of its features, where none of its attributes says so.
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


def embed(
    checkpoint: Place,
    data: Data | PathLike[str] = None,
    output: Place = "features",
    *,
    backbone: Backbone = None,
    feature_dim: int | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Result:
    """Write the features of images to a file: ``erssl embed``.

    Args:
        checkpoint: As :func:`knn` takes it.
        data: A folder of images, with or without class folders; or as :func:`pretrain` takes it;
            ``None`` for the images of the run.
        output: The file: ``.npy`` (also without a suffix) or ``.safetensors``, with a ``.csv``
            beside it, or ``.parquet``.
        backbone: The module, where the run was of one.
        feature_dim: Width of its features, where none of its attributes says so.
        quiet: Print nothing.
        **overrides: Any key of the command, such as ``on="patches"`` or ``split="val"``.

    Returns:
        The file; ``results`` has the ``shape`` of the features, the ``files`` of their rows, and
        the images that were ``skipped``, each with the reason.

    Raises:
        ErsslError: If it cannot be done.
    """
    images = str(Path(data)) if isinstance(data, PathLike) else data
    said = {"checkpoint": checkpoint, "data": images, "output": output}
    return run_command("embed", said, backbone, feature_dim, quiet, overrides)


def predict(
    checkpoint: Place,
    data: Data | PathLike[str] = None,
    output: Place = "predictions.csv",
    *,
    backbone: Backbone = None,
    feature_dim: int | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Result:
    """Write the classes of images, by a classifier that was trained: ``erssl predict``.

    Args:
        checkpoint: The folder of a finished :func:`linear`, :func:`semi` or :func:`finetune` (its
            ``path``), or a ``seed<N>`` folder of it.
        data: As :func:`embed` takes it; ``None`` for the images of the run.
        output: The CSV file; a contact sheet lies beside it.
        backbone: The module, where the run was of one.
        feature_dim: Width of its features, where none of its attributes says so.
        quiet: Print nothing.
        **overrides: Any key of the command, such as ``top=None`` or ``split="all"``.

    Returns:
        The file; ``metrics`` has accuracies where the images have classes that the classifier
        knows, ``results`` the ``files``, the class ``predicted`` for each, the ``classes``, and the
        images that were ``skipped``, each with the reason.

    Raises:
        ErsslError: If it cannot be done.
    """
    images = str(Path(data)) if isinstance(data, PathLike) else data
    said = {"checkpoint": checkpoint, "data": images, "output": output}
    return run_command("predict", said, backbone, feature_dim, quiet, overrides)


def export(
    checkpoint: Place, format: str, output: Place, *, quiet: bool = False, **overrides: Any
) -> Result:
    """Write a backbone as another library reads it: ``erssl export``.

    Args:
        checkpoint: As :func:`knn` takes it.
        format: ``"torchvision"``, ``"timm"``, ``"huggingface"``, ``"detectron2"`` or
            ``"safetensors"``.
        output: The file to write; the folder of Hugging Face.
        quiet: Print nothing.
        **overrides: Any key of the command.

    Returns:
        What was written, and how far its features are from those of the checkpoint.

    Raises:
        ErsslError: If it cannot be done.
    """
    said = {"checkpoint": checkpoint, "format": format, "output": output}
    return run_command("export", said, None, None, quiet, overrides)


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


def report(
    *places: Place,
    output: Place = "report",
    plots: str = "png",
    rank: str | None = None,
    quiet: bool = False,
) -> Result:
    """Put any number of results into one table: ``erssl report``.

    Args:
        *places: Run directories, or folders that hold some.
        output: The folder of the report.
        plots: ``"pdf"`` or ``"svg"`` for the figure in that format too.
        rank: Reading without labels to order pretrainings by, such as ``"features_rankme"``.
        quiet: Print nothing.

    Returns:
        The folder; ``results["rows"]`` has the table.

    Raises:
        ErsslError: If there are no results, or one cannot be read.
    """
    with own_process():
        folders = [str(Path(place)) for place in places]
        own = [f"output={Path(output)}", f"plots={plots}"]
        own += [] if rank is None else [f"rank={rank}"]
        return execute("report", [*folders, *own], quiet)
