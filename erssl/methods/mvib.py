"""MVIB: the multi-view information bottleneck (arXiv 2002.07017), MVEB's baseline."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from erssl.loss import MVIBLoss
from erssl.loss.mvib import Estimator
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("mvib").options


@register_method("mvib")
class MVIB(MultiViewMethod):
    """Stochastic embeddings that say much of each other and little that only one view knows."""

    info = MethodInfo(
        paper="Federici et al. 2020, arXiv 2002.07017",
        family="information bottleneck",
        target="shared",
        entropy="InfoNCE or MINE (lower bounds of the information), or MIGE (an estimate)",
        reconstruction="the same, less what one view alone knows",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        multiplier: float = OPTIONS["multiplier"],
        estimator: Estimator = OPTIONS["estimator"],
        temperature: float = OPTIONS["temperature"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are MVEB's network and optimiser, where MVIB is its baseline.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            multiplier: λ, the weight of what only one view knows; see :class:`MVIBLoss`.
            estimator: Of the mutual information: ``"infonce"``, ``"mine"`` or ``"mige"``.
            temperature: Of InfoNCE.
            gather_distributed: Estimate from the batch of all devices.
            projection_hidden_dim: Width of the projector's two hidden layers.
            projection_dim: Dimension of the embedding; the projector gives as many scales too.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, 2 * projection_dim, num_layers=3
        )
        self.criterion = MVIBLoss(
            multiplier, temperature, gather_distributed, estimator, projection_dim
        )

    def embed(self, images: Tensor) -> Tensor:
        """Mean (N, d) of the posterior of images (N, 3, H, W)."""
        return _mean(super().embed(images))

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Posteriors of two views of one branch."""
        features, (z0, z1) = self.online_branch(views)
        return StepOutput(self.criterion(z0, z1), features, _mean(z0), _mean(z1))


def _mean(posterior: Tensor) -> Tensor:
    return posterior.chunk(2, dim=1)[0]
