"""The commands of ``erssl`` as Python functions.

Each takes the keys of its command, as keywords or, where a key has a dot, from a dictionary:
``erssl.pretrain("mveb", data="cifar10", epochs=3, **{"optimizer.base_lr": 0.1})``. It leaves the
run directory that the command leaves and returns a :class:`~erssl.run.result.Result`. In place of
names it takes a data set, a backbone and a method as objects. Errors are those of
:mod:`erssl.errors`.
"""

from __future__ import annotations

from typing import Any

from erssl.commands.evaluating import (
    detect,
    evaluation_named,
    finetune,
    knn,
    lens,
    linear,
    segment,
    semi,
    transfer,
)
from erssl.commands.training import compare, pretrain, study
from erssl.commands.writing import embed, export, predict, report
from erssl.settings.commands import evaluations

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


def __getattr__(name: str) -> Any:
    """Give the function of an evaluation that is not named above."""
    if name in evaluations():
        return evaluation_named(name)
    raise AttributeError(f"module 'erssl.commands' has no attribute {name!r}")
