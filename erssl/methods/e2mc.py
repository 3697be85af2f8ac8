"""E2MC (arXiv 2411.15931): a few epochs more, for the entropy of every single dimension."""

from __future__ import annotations

from typing_extensions import Unpack

from erssl.loss import E2MCLoss
from erssl.methods.info import MethodInfo
from erssl.methods.options import TrainingOptions
from erssl.methods.projected import SharedViews
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("e2mc").options


@register_method("e2mc")
class E2MC(SharedViews):
    """VICReg, with marginal entropies and covariances in a cube.

    For a model that is trained already: ``erssl pretrain method=e2mc checkpoint=<run>``. The
    backbone is taken over, the projector begins anew.
    """

    info = MethodInfo(
        paper="Chakraborty et al. 2024, arXiv 2411.15931",
        family="marginal entropies",
        target="shared",
        entropy="marginal entropies (an upper bound in the limit) and covariances (a surrogate)",
        reconstruction="mean squared error",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        invariance_weight: float = OPTIONS["invariance_weight"],
        entropy_weight: float = OPTIONS["entropy_weight"],
        covariance_weight: float = OPTIONS["covariance_weight"],
        vicreg_variance_weight: float = OPTIONS["vicreg_variance_weight"],
        vicreg_covariance_weight: float = OPTIONS["vicreg_covariance_weight"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are those of its code for VICReg.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            invariance_weight: Weight of the squared error.
            entropy_weight: Weight of the mean marginal entropy.
            covariance_weight: Weight of the squared covariances in the cube.
            vicreg_variance_weight: Weight of VICReg's variance.
            vicreg_covariance_weight: Weight of VICReg's covariance.
            gather_distributed: Take the loss over the batch of all devices.
            projection_hidden_dim: Width of the projector's hidden layers.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=3
        )
        self.criterion = E2MCLoss(
            invariance_weight,
            entropy_weight,
            covariance_weight,
            vicreg_variance_weight,
            vicreg_covariance_weight,
            gather_distributed,
        )
