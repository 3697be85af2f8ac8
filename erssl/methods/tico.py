"""TiCo (arXiv 2206.10698): invariance, and contrast with a moving covariance."""

from __future__ import annotations

from typing_extensions import Unpack

from erssl.loss import TiCoLoss
from erssl.methods.info import MethodInfo
from erssl.methods.options import TargetOptions
from erssl.methods.projected import TargetViews
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("tico").options


@register_method("tico")
class TiCo(TargetViews):
    """Online embeddings meet a slow branch's, and shun directions that are in use already."""

    info = MethodInfo(
        paper="Zhu et al. 2022, arXiv 2206.10698",
        family="redundancy reduction",
        target="momentum",
        entropy="contrast with a moving covariance, its Rényi-2 purity (a surrogate)",
        reconstruction="alignment",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        beta: float = OPTIONS["beta"],
        rho: float = OPTIONS["rho"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TargetOptions],
    ) -> None:
        """Defaults are the paper's, as lightly quotes them.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            beta: Share of the covariance that a step leaves.
            rho: Weight of the contrast. At 0 a slow target alone is left.
            gather_distributed: Take the loss over the batch of all devices.
            projection_hidden_dim: Width of the projector's hidden layers.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=2
        )
        self.criterion = TiCoLoss(projection_dim, beta, rho, gather_distributed)
        self.add_target()
