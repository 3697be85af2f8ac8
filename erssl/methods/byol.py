"""BYOL (arXiv 2006.07733), on lightly's ``NegativeCosineSimilarity``."""

from __future__ import annotations

import torch
from lightly.loss import NegativeCosineSimilarity
from torch import Tensor
from typing_extensions import Unpack

from erssl.entropy.precision import at_least_float32, outside_autocast
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TargetOptions, check_loss_scale
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("byol").options


class BYOLOptions(TargetOptions, total=False):
    """Keyword options of BYOL's network."""

    projection_hidden_dim: int
    projection_dim: int
    prediction_hidden_dim: int


@register_method("byol")
class BYOL(MultiViewMethod):
    """The online branch predicts what a slowly moving average of itself makes of the other view."""

    info = MethodInfo(
        paper="Grill et al. 2020, arXiv 2006.07733",
        family="distillation",
        target="momentum",
        entropy="a predictor and a slow target (no term)",
        reconstruction="alignment",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        loss_scale: float = OPTIONS["loss_scale"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        prediction_hidden_dim: int = OPTIONS["prediction_hidden_dim"],
        **training: Unpack[TargetOptions],
    ) -> None:
        """Defaults are the paper's (section 3.3).

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            loss_scale: Factor of lightly's loss, the mean of -cos over both directions. The
                paper's, 2 - 2 cos of each direction in sum, has 4 times its gradient.
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
        check_loss_scale(loss_scale)
        self.loss_scale = loss_scale
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
        with outside_autocast(target[0]):
            p0, p1 = (at_least_float32(p) for p in predictions)
            t0, t1 = (at_least_float32(t) for t in target)
            mean = 0.5 * (self.criterion(p0, t1) + self.criterion(p1, t0))
            loss: Tensor = self.loss_scale * mean
        return loss
