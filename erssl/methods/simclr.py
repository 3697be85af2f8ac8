"""SimCLR (arXiv 2002.05709), the contrastive baseline, on lightly's ``NTXentLoss``."""

from __future__ import annotations

import torch
from lightly.loss import NTXentLoss
from lightly.transforms.utils import IMAGENET_NORMALIZE
from torch import Tensor
from typing_extensions import Unpack

from erssl.data import ViewOptions, build_views
from erssl.entropy._precision import at_least_float32
from erssl.methods.base import MethodInfo, MultiViewMethod, StepOutput, TrainingOptions
from erssl.methods.optimizer import OptimizerOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head

transform = build_views(ViewOptions("simclr"), 224, **IMAGENET_NORMALIZE)


@register_method("simclr", transform)
class SimCLR(MultiViewMethod):
    """Two views of one branch; every other image of the batch is a negative."""

    info = MethodInfo(
        paper="Chen et al. 2020, arXiv 2002.05709",
        family="contrastive",
        target="shared",
    )
    # SimCLR, section 2.2 and appendix B.6: LARS 0.3 B/256, weight decay 1e-6, warm-up 10 epochs.
    default_optimizer = OptimizerOptions(base_lr=0.3)

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        temperature: float = 0.1,
        gather_distributed: bool = True,
        projection_hidden_dim: int = 2048,
        projection_dim: int = 128,
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are SimCLR's for ResNet-50.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            temperature: Of NT-Xent; SimCLR, Table 5: 0.1.
            gather_distributed: Take negatives from all devices.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=2
        )
        self.criterion = NTXentLoss(temperature, gather_distributed=gather_distributed)

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Two views of one branch."""
        features, (z0, z1) = self.online_branch(views)
        with torch.autocast(z0.device.type, enabled=False):  # as our own losses do inside
            loss = self.criterion(at_least_float32(z0), at_least_float32(z1))
        return StepOutput(loss, features, z0, z1)
