"""EMP-SSL (arXiv 2304.03977): many patches of an image, in few epochs."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from erssl.loss import EMPSSLLoss
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("emp_ssl").options


@register_method("emp_ssl")
class EMPSSL(MultiViewMethod):
    """Every patch's embeddings have a high coding rate, and are near the image's mean patch."""

    info = MethodInfo(
        paper="Tong et al. 2023, arXiv 2304.03977",
        family="Gaussian entropy",
        target="shared",
        multi_crop=True,
        entropy="total coding rate: entropy of a Gaussian seen through noise (a surrogate)",
        reconstruction="alignment with the mean patch",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        distortion: float = OPTIONS["distortion"],
        invariance_weight: float = OPTIONS["invariance_weight"],
        entropy_weight: float = OPTIONS["entropy_weight"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are those of EMP-SSL's code.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            distortion: The square ε² of the coding rate.
            invariance_weight: Weight of the alignment.
            entropy_weight: Weight of the coding rate; at 0 it collapses.
            gather_distributed: Take the loss over the batch of all devices.
            projection_hidden_dim: Width of the projector's hidden layers.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=3
        )
        self.criterion = EMPSSLLoss(
            distortion, invariance_weight, entropy_weight, gather_distributed
        )

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """The loss of every view's embedding."""
        features, online = self.online_branch(views)
        return StepOutput(self.criterion(online), features, online[0], online[1])
