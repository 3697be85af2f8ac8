"""What an evaluation leaves of its classes: confusion and accuracies, as tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erssl.files import write_rows
from erssl.run.plots import Plots, plot_confusion, plot_recall

CLASS_FIGURES = ("confusion.png", "per_class.png")
CLASS_TABLES = ("confusion.csv", "per_class.csv")


def write_classes(
    matrix: Any, names: Sequence[str], folder: Path, plots: Plots = "png"
) -> list[str]:
    """Write which class is taken for which, and the accuracy of each.

    Args:
        matrix: Counts (C, C), rows are the truth. A class that has none has no accuracy: ``nan``.
        names: Of the classes.
        folder: Where they go.
        plots: Format that the figures are also written in.

    Returns:
        Names of the figures.
    """
    recall = matrix.diagonal() / matrix.sum(dim=1)  # NaN of a class without images
    counts = zip(names, matrix.tolist(), strict=True)
    shares = zip(names, recall.tolist(), strict=True)
    confusion, per_class = (folder / name for name in CLASS_TABLES)
    write_rows(confusion, [("true", *names), *((name, *row) for name, row in counts)])
    write_rows(per_class, [("class", "accuracy"), *shares])
    plot_confusion(matrix, names, folder / CLASS_FIGURES[0], plots)
    plot_recall(recall, names, folder / CLASS_FIGURES[1], plots)
    return list(CLASS_FIGURES)
