"""Barlow Twins (arXiv 2103.03230), on lightly's ``BarlowTwinsLoss``."""

from __future__ import annotations

from lightly.loss import BarlowTwinsLoss
from torch import Tensor
from typing_extensions import Unpack

from erssl.entropy.precision import at_least_float32, outside_autocast
from erssl.loss.distributed import check_gather, gather_rows
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("barlowtwins").options


@register_method("barlowtwins")
class BarlowTwins(MultiViewMethod):
    """The cross-correlation of two views' embeddings is to be the identity."""

    info = MethodInfo(
        paper="Zbontar et al. 2021, arXiv 2103.03230",
        family="redundancy reduction",
        target="shared",
        entropy="decorrelation (a surrogate)",
        reconstruction="correlation of 1",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        lambda_param: float = OPTIONS["lambda_param"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are its code's.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            lambda_param: λ, weight of the terms off the diagonal; 0.0051 (the paper: 0.005).
            gather_distributed: Take the correlation over the batch of all devices.
            projection_hidden_dim: Width of the projector's two hidden layers.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        check_gather(gather_distributed)
        self.gather_distributed = gather_distributed
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=3
        )
        # rows are gathered here: lightly would standardise them on each device by itself
        self.criterion = BarlowTwinsLoss(lambda_param)

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Two views of one branch."""
        features, (z0, z1) = self.online_branch(views)
        a, b = (gather_rows(at_least_float32(z), self.gather_distributed) for z in (z0, z1))
        with outside_autocast(z0):
            loss = self.criterion(a, b)
        return StepOutput(loss, features, z0, z1)
