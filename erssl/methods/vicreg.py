"""VICReg (arXiv 2105.04906), on lightly's ``VICRegLoss``."""

from __future__ import annotations

from lightly.loss import VICRegLoss
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

OPTIONS = read_recipe("vicreg").options


@register_method("vicreg")
class VICReg(MultiViewMethod):
    """Invariance between views, variance within each dimension, no covariance between them."""

    info = MethodInfo(
        paper="Bardes et al. 2022, arXiv 2105.04906",
        family="redundancy reduction",
        target="shared",
        entropy="variance and covariance (a surrogate)",
        reconstruction="mean squared error",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        lambda_param: float = OPTIONS["lambda_param"],
        mu_param: float = OPTIONS["mu_param"],
        nu_param: float = OPTIONS["nu_param"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are those of VICReg's code.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            lambda_param: λ, weight of the invariance; 25.
            mu_param: μ, weight of the variance; 25.
            nu_param: ν, weight of the covariance; 1.
            gather_distributed: Take variance and covariance over the batch of all devices.
            projection_hidden_dim: Width of the expander's two hidden layers.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        check_gather(gather_distributed)
        self.gather_distributed = gather_distributed
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=3
        )
        self.criterion = VICRegLoss(lambda_param, mu_param, nu_param)

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Two views of one branch, not normalised."""
        features, (z0, z1) = self.online_branch(views)
        a, b = (gather_rows(at_least_float32(z), self.gather_distributed) for z in (z0, z1))
        if len(a) < 2:
            raise ValueError(
                "VICReg's variance needs at least two images in a batch but was given one; set "
                "batch_size=2 or more."
            )
        with outside_autocast(z0):
            loss = self.criterion(a, b)
        return StepOutput(loss, features, z0, z1)
