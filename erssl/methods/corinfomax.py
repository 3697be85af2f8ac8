"""CorInfoMax (arXiv 2209.07999): the entropy of Gaussians with moving covariances."""

from __future__ import annotations

from typing_extensions import Unpack

from erssl.loss import CorInfoMaxLoss
from erssl.methods.info import MethodInfo
from erssl.methods.options import TrainingOptions
from erssl.methods.projected import SharedViews
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("corinfomax").options


@register_method("corinfomax")
class CorInfoMax(SharedViews):
    """Two views of one branch; log-determinants of their covariances over many batches."""

    info = MethodInfo(
        paper="Ozsoy et al. 2022, arXiv 2209.07999",
        family="Gaussian entropy",
        target="shared",
        entropy="log-determinants of moving covariances: entropy of a Gaussian (an estimate)",
        reconstruction="mean squared error",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        alpha: float = OPTIONS["alpha"],
        entropy_weight: float = OPTIONS["entropy_weight"],
        forgetting: float = OPTIONS["forgetting"],
        ridge: float = OPTIONS["ridge"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are those of CorInfoMax's command for ImageNet.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            alpha: α, weight of the squared error.
            entropy_weight: Weight of the log-determinants; at 0 it collapses.
            forgetting: Share of the moments that a step leaves.
            ridge: What is added to the covariances' diagonal.
            gather_distributed: Take the loss over the batch of all devices.
            projection_hidden_dim: Width of the projector's hidden layers.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=3
        )
        self.criterion = CorInfoMaxLoss(
            projection_dim, alpha, entropy_weight, forgetting, ridge, gather_distributed
        )
