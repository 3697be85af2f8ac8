"""Detections whose score, box or mask is not finite: counted, since both frameworks drop them.

Both torchvision and Detectron2 leave them out without a word, so that a detector that computes NaN
looks like one that detects nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

NOT_FINITE = "not_finite"  # under which results have the number


class FiniteOutputs:
    """Counts rows of predictors' outputs that are not finite."""

    def __init__(self, predictors: Iterable[nn.Module]) -> None:
        """Watch modules.

        Args:
            predictors: Modules whose outputs are tensors, or nested lists of them, with a row for
                each proposal, detection or image.
        """
        self._counts: list[Tensor] = []  # left on their device until they are asked for
        self._hooks = [module.register_forward_hook(self._count) for module in predictors]

    @property
    def rows(self) -> int:
        """Images, proposals and masks for which a value was NaN or infinite, so far."""
        return sum(int(count) for count in self._counts)

    def close(self) -> None:
        """Watch no longer."""
        for hook in self._hooks:
            hook.remove()

    def _count(self, module: nn.Module, inputs: Any, output: Any) -> None:
        bad: dict[int, Tensor] = {}  # by number of rows: scores and boxes of a row count once
        for tensor in _tensors(output):
            rows = ~tensor.detach().isfinite().flatten(1).all(1)
            bad[len(rows)] = bad.get(len(rows), torch.zeros_like(rows)) | rows
        self._counts += [rows.sum() for rows in bad.values()]


@contextmanager
def counting(predictors: Iterable[nn.Module]) -> Iterator[FiniteOutputs]:
    """Count for a while what is not finite.

    Args:
        predictors: As for :class:`FiniteOutputs`.
    """
    outputs = FiniteOutputs(predictors)
    try:
        yield outputs
    finally:
        outputs.close()


def sentence_on(rows: int) -> str:
    """What a reader of the result must know about values that were not finite."""
    return (
        f"{rows} outputs of the detector were NaN or infinite and are no detections, so that its "
        "average precision is too low: it diverged, or its inputs did; train with a smaller "
        "learning_rate."
    )


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Sequence):
        for part in output:
            yield from _tensors(part)
