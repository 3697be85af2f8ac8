"""Barlow Twins (arXiv 2103.03230), on lightly's ``BarlowTwinsLoss``."""

from __future__ import annotations

import torch
from lightly.loss import BarlowTwinsLoss
from lightly.transforms.utils import IMAGENET_NORMALIZE
from torch import Tensor
from typing_extensions import Unpack

from erssl.data import ViewOptions, build_views
from erssl.entropy._precision import at_least_float32
from erssl.loss._distributed import check_gather, gather_rows
from erssl.methods.base import MethodInfo, MultiViewMethod, StepOutput, TrainingOptions
from erssl.methods.optimizer import OptimizerOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head

transform = build_views(ViewOptions("byol"), 224, **IMAGENET_NORMALIZE)


@register_method("barlowtwins", transform)
class BarlowTwins(MultiViewMethod):
    """The cross-correlation of two views' embeddings is to be the identity."""

    info = MethodInfo(
        paper="Zbontar et al. 2021, arXiv 2103.03230",
        family="redundancy reduction",
        target="shared",
    )
    # Barlow Twins' code: LARS 0.2 B/256, warm-up 10 epochs; weight decay as lightly's benchmark.
    default_optimizer = OptimizerOptions(base_lr=0.2, weight_decay=1.5e-6)

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        lambda_param: float = 0.005,
        gather_distributed: bool = True,
        projection_hidden_dim: int = 8192,
        projection_dim: int = 8192,
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are the paper's.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            lambda_param: λ, weight of the terms off the diagonal; 0.005.
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
        with torch.autocast(z0.device.type, enabled=False):
            loss = self.criterion(a, b)
        return StepOutput(loss, features, z0, z1)
