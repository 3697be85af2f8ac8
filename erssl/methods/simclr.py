"""SimCLR (arXiv 2002.05709), the contrastive baseline, on lightly's ``NTXentLoss``."""

from __future__ import annotations

from lightly.loss import NTXentLoss
from torch import Tensor
from typing_extensions import Unpack

from erssl.entropy.precision import at_least_float32, outside_autocast
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions, check_loss_scale
from erssl.methods.registry import register_method
from erssl.models import mlp_head, shiftless_norm
from erssl.recipes import read_recipe

OPTIONS = read_recipe("simclr").options


@register_method("simclr")
class SimCLR(MultiViewMethod):
    """Two views of one branch; every other image of the batch is a negative."""

    info = MethodInfo(
        paper="Chen et al. 2020, arXiv 2002.05709",
        family="contrastive",
        target="shared",
        entropy="negatives of both views (a surrogate)",
        reconstruction="temperature",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        temperature: float = OPTIONS["temperature"],
        loss_scale: float = OPTIONS["loss_scale"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        output_norm: bool = OPTIONS["output_norm"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are SimCLR's for ResNet-50.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            temperature: Of NT-Xent; SimCLR, Table 5: 0.1.
            loss_scale: Factor of lightly's loss, the mean of both directions; 2 gives their sum,
                the authors' loss.
            gather_distributed: Take negatives from all devices.
            output_norm: Batch normalisation, without shift, after the projector's last layer.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim,
            projection_hidden_dim,
            projection_dim,
            num_layers=2,
            output_norm=shiftless_norm(projection_dim) if output_norm else None,
        )
        check_loss_scale(loss_scale)
        self.loss_scale = loss_scale
        self.criterion = NTXentLoss(temperature, gather_distributed=gather_distributed)

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Two views of one branch."""
        features, (z0, z1) = self.online_branch(views)
        with outside_autocast(z0):  # as our own losses do inside
            mean = self.criterion(at_least_float32(z0), at_least_float32(z1))
            loss = self.loss_scale * mean
        return StepOutput(loss, features, z0, z1)
