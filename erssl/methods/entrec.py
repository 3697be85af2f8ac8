"""EntRec: the entropy-reconstruction bound on shared branches (OpenReview UHpva3PuKLN)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from typing_extensions import Unpack

from erssl.loss import EntRecLoss
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions, check_queue
from erssl.methods.registry import register_method
from erssl.models import mlp_head, shiftless_norm
from erssl.recipes import read_recipe

OPTIONS = read_recipe("entrec").options


@register_method("entrec")
class EntRec(MultiViewMethod):
    """One branch for both views: no EMA, no predictor, no stop-gradient, entropy of both views."""

    info = MethodInfo(
        paper="ICLR 2023 submission, OpenReview UHpva3PuKLN",
        family="entropy-reconstruction",
        target="shared",
        entropy="kernel density (an upper bound, in expectation) or mean soft-max (a lower one)",
        reconstruction="vMF density, or cross-entropy",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        kind: Literal["continuous", "discrete"] = OPTIONS["kind"],
        temperature: float = OPTIONS["temperature"],
        leave_one_out: bool = OPTIONS["leave_one_out"],
        memory_bank_size: int | Sequence[int] = OPTIONS["memory_bank_size"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        output_norm: bool = OPTIONS["output_norm"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
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
            output_norm: Batch normalisation, without shift, after the projector's last layer.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding, or number of outcomes K.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        check_queue(memory_bank_size, projection_dim)
        self.projection_head = mlp_head(
            self.feature_dim,
            projection_hidden_dim,
            projection_dim,
            num_layers=2,
            output_norm=shiftless_norm(projection_dim) if output_norm else None,
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
