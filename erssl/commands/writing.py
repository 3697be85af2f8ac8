"""The functions of commands that write files: features, classes, weights, tables."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erssl.calls import execute, own_process, run_command
from erssl.commands.types import Backbone, Data, Place

if TYPE_CHECKING:
    from erssl.run.result import Result


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
        feature_dim: Width of its features, where neither an attribute of it nor the run says so.
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
        feature_dim: Width of its features, where neither an attribute of it nor the run says so.
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
    checkpoint: Place,
    format: str,
    output: Place,
    *,
    backbone: Backbone = None,
    feature_dim: int | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Result:
    """Write a backbone as another library reads it: ``erssl export``.

    Args:
        checkpoint: As :func:`knn` takes it.
        format: ``"torchvision"``, ``"timm"``, ``"huggingface"``, ``"detectron2"``,
            ``"safetensors"`` or ``"onnx"``.
        output: The file to write; the folder of Hugging Face.
        backbone: The module, where the run was of one.
        feature_dim: Width of its features, where neither an attribute of it nor the run says so.
        quiet: Print nothing.
        **overrides: Any key of the command.

    Returns:
        What was written, and how far its features are from those of the checkpoint.

    Raises:
        ErsslError: If it cannot be done.
    """
    said = {"checkpoint": checkpoint, "format": format, "output": output}
    return run_command("export", said, backbone, feature_dim, quiet, overrides)


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
