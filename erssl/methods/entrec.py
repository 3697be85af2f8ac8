"""EntRec: the entropy-reconstruction bound on shared branches (OpenReview UHpva3PuKLN)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lightly.transforms.utils import IMAGENET_NORMALIZE
from torch import Tensor
from typing_extensions import Unpack

from erssl.data import ViewOptions, build_views
from erssl.loss import EntRecLoss
from erssl.methods.base import (
    MethodInfo,
    MultiViewMethod,
    StepOutput,
    TrainingOptions,
    check_queue,
)
from erssl.methods.optimizer import OptimizerOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head

transform = build_views(ViewOptions("simclr"), 224, **IMAGENET_NORMALIZE)


@register_method("entrec", transform)
class EntRec(MultiViewMethod):
    """One branch for both views: no EMA, no predictor, no stop-gradient, entropy of both views."""

    info = MethodInfo(
        paper="ICLR 2023 submission, OpenReview UHpva3PuKLN",
        family="entropy-reconstruction",
        target="shared",
    )
    # SimCLR's recipe, which EntRec keeps: LARS 0.3 B/256, weight decay 1e-6, warm-up 10 epochs.
    default_optimizer = OptimizerOptions(base_lr=0.3)

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        kind: Literal["continuous", "discrete"] = "continuous",
        temperature: float = 0.1,
        leave_one_out: bool = True,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = True,
        projection_hidden_dim: int = 2048,
        projection_dim: int = 128,
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are SimCLR's network, whose loss EntRec replaces.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            kind: ``"continuous"`` (vMF) or ``"discrete"`` (soft-max over the outputs).
            temperature: 1/κ of the continuous kind.
            leave_one_out: ``False`` reproduces the paper (continuous kind).
            memory_bank_size: Size (n, d) of a queue for the entropy (continuous kind).
            gather_distributed: Take the entropy over the batch of all devices.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding, or number of outcomes K.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        check_queue(memory_bank_size, projection_dim)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=2
        )
        self.criterion = EntRecLoss(
            kind, temperature, leave_one_out, gather_distributed, memory_bank_size
        )

    def logits(self, embedding: Tensor) -> Tensor | None:
        """The embedding itself, where its entries are the outcomes (discrete kind)."""
        return embedding if self.criterion.kind == "discrete" else None

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Two views of one branch, each the other's target."""
        features, (z0, z1) = self.online_branch(views)
        return StepOutput(self.criterion(z0, z1), features, z0, z1)
