"""FroSSL (arXiv 2310.02903): the Rényi entropy of the spectrum, without eigenvalues."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from erssl.loss import FroSSLLoss
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("frossl").options


@register_method("frossl")
class FroSSL(MultiViewMethod):
    """Views of one branch, each of a wide spectrum, near their mean."""

    info = MethodInfo(
        paper="Skean et al. 2023, arXiv 2310.02903",
        family="matrix entropy",
        target="shared",
        multi_crop=True,
        entropy="matrix Rényi-2 entropy of the spectrum (a surrogate)",
        reconstruction="mean squared error to the mean view",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        invariance_weight: float = OPTIONS["invariance_weight"],
        entropy_weight: float = OPTIONS["entropy_weight"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are those of FroSSL's script for ImageNet.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            invariance_weight: Weight of the squared error.
            entropy_weight: Weight of the entropy; at 0 it collapses.
            gather_distributed: Take the loss over the batch of all devices.
            projection_hidden_dim: Width of the projector's hidden layers.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=3
        )
        self.criterion = FroSSLLoss(invariance_weight, entropy_weight, gather_distributed)

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """The loss of every view's embedding."""
        features, online = self.online_branch(views)
        return StepOutput(self.criterion(online), features, online[0], online[1])
