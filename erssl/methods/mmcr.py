"""MMCR (arXiv 2303.03307): maximum manifold capacity representations."""

from __future__ import annotations

from typing_extensions import Unpack

from erssl.loss import MMCRLoss
from erssl.methods.info import MethodInfo
from erssl.methods.options import TargetOptions
from erssl.methods.projected import TargetViews
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("mmcr").options


@register_method("mmcr")
class MMCR(TargetViews):
    """The images' mean embeddings, of an online and a slow branch, span as much as they can."""

    info = MethodInfo(
        paper="Yerxa et al. 2023, arXiv 2303.03307",
        family="matrix entropy",
        target="momentum",
        multi_crop=True,
        entropy="nuclear norm of the mean embeddings (a surrogate)",
        reconstruction="the same: means are long where views agree",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TargetOptions],
    ) -> None:
        """Defaults are those of MMCR's code.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            gather_distributed: Take the loss over the batch of all devices.
            projection_hidden_dim: Width of the projector's hidden layers.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=3
        )
        self.criterion = MMCRLoss(gather_distributed)
        self.add_target()
