"""What a method says of itself, and what it gives of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class MethodInfo:
    """What ``erssl methods`` says of a method.

    Attributes:
        paper: Authors, year and where to find it.
        family: What it does against collapse.
        target: The branch that views are compared with.
        multi_crop: Whether it takes local views beside the two global ones.
        min_views: How many views it needs.
        entropy: Which term keeps the entropy of the embeddings up: the estimator, and whether it
            is a bound or a surrogate.
        reconstruction: Which term holds views together.
    """

    paper: str
    family: str
    target: str
    multi_crop: bool = False
    min_views: int = 2
    entropy: str = ""
    reconstruction: str = ""

    @property
    def views(self) -> str:
        """The views that it takes, in words."""
        if self.min_views == 1:
            return "1 or more"
        return "2, or 2 + local views" if self.multi_crop else "2"


class StepOutput(NamedTuple):
    """What one step gives: the loss, and what logging and probes look at."""

    loss: Tensor
    features: Tensor  # (N, feature_dim) of view 0
    online: Tensor  # (N, d) of view 0
    target: Tensor  # (N, d) that view 0 meets
