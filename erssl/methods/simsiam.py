"""SimSiam (arXiv 2011.10566), on lightly's ``NegativeCosineSimilarity``."""

from __future__ import annotations

from lightly.loss import NegativeCosineSimilarity
from torch import Tensor, nn
from typing_extensions import Unpack

from erssl.entropy.precision import at_least_float32, outside_autocast
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("simsiam").options


@register_method("simsiam")
class SimSiam(MultiViewMethod):
    """BYOL without a momentum branch: the target is the online branch, without gradient."""

    info = MethodInfo(
        paper="Chen & He 2021, arXiv 2011.10566",
        family="distillation",
        target="stop-gradient",
        entropy="a predictor and a stop-gradient (no term)",
        reconstruction="alignment",
    )
    constant_lr = ("prediction_head",)

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        prediction_hidden_dim: int = OPTIONS["prediction_hidden_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are those of SimSiam's code.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            projection_hidden_dim: Width of the projector's two hidden layers.
            projection_dim: Dimension of the embedding.
            prediction_hidden_dim: Width of the predictor's hidden layer, its bottleneck.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim,
            projection_hidden_dim,
            projection_dim,
            num_layers=3,
            output_norm=nn.BatchNorm1d(projection_dim, affine=False),
        )
        self.prediction_head = mlp_head(
            projection_dim, prediction_hidden_dim, projection_dim, num_layers=2
        )
        self.criterion = NegativeCosineSimilarity()

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """The prediction from each view against the other, which takes no gradient (Alg. 1)."""
        features, (z0, z1) = self.online_branch(views)
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        t0, t1 = at_least_float32(z0.detach()), at_least_float32(z1.detach())
        with outside_autocast(z0):
            loss = 0.5 * (
                self.criterion(at_least_float32(p0), t1) + self.criterion(at_least_float32(p1), t0)
            )
        return StepOutput(loss, features, z0, t1)
