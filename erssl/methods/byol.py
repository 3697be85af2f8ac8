"""BYOL (arXiv 2006.07733), on lightly's ``NegativeCosineSimilarity``."""

from __future__ import annotations

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.transforms.utils import IMAGENET_NORMALIZE
from torch import Tensor
from typing_extensions import Unpack

from erssl.data import ViewOptions, build_views
from erssl.entropy._precision import at_least_float32
from erssl.methods.base import MethodInfo, MultiViewMethod, StepOutput, TargetOptions
from erssl.methods.optimizer import OptimizerOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head

transform = build_views(ViewOptions("byol"), 224, **IMAGENET_NORMALIZE)


class BYOLOptions(TargetOptions, total=False):
    """Keyword options of BYOL's network."""

    projection_hidden_dim: int
    projection_dim: int
    prediction_hidden_dim: int


@register_method("byol", transform)
class BYOL(MultiViewMethod):
    """The online branch predicts what a slowly moving average of itself makes of the other view."""

    info = MethodInfo(
        paper="Grill et al. 2020, arXiv 2006.07733", family="distillation", target="momentum"
    )
    # BYOL, section 3.3 (1000 epochs): LARS 0.2 B/256, weight decay 1.5e-6, warm-up 10 epochs.
    default_optimizer = OptimizerOptions(base_lr=0.2, weight_decay=1.5e-6, final_lr_ratio=0.0)

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        projection_hidden_dim: int = 4096,
        projection_dim: int = 256,
        prediction_hidden_dim: int = 4096,
        **training: Unpack[TargetOptions],
    ) -> None:
        """Defaults are the paper's (section 3.3).

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding.
            prediction_hidden_dim: Width of the predictor's hidden layer.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=2
        )
        self.prediction_head = mlp_head(
            projection_dim, prediction_hidden_dim, projection_dim, num_layers=2
        )
        self.criterion: torch.nn.Module = NegativeCosineSimilarity()
        self.add_target()

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """The prediction from each view against the target of the other."""
        target = self.target_branch(views)
        features, online = self.online_branch(views)
        predictions = [self.prediction_head(z) for z in online]
        return StepOutput(self._loss(online, predictions, target), features, online[0], target[1])

    def _loss(
        self, online: list[Tensor], predictions: list[Tensor], target: list[Tensor]
    ) -> Tensor:
        with torch.autocast(target[0].device.type, enabled=False):
            p0, p1 = (at_least_float32(p) for p in predictions)
            t0, t1 = (at_least_float32(t) for t in target)
            loss: Tensor = 0.5 * (self.criterion(p0, t1) + self.criterion(p1, t0))
        return loss
