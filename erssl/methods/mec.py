"""Maximum entropy coding (arXiv 2210.11464)."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import Unpack

from erssl.loss import MECLoss
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TargetOptions
from erssl.methods.projected import TargetViews
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("mec").options
_FIRST_INFLATION = 8.0  # of ε² at the first step (MEC's code)


@register_method("mec")
class MEC(TargetViews):
    """SimSiam's network with a momentum branch; the coding length of both views is the longest."""

    criterion: MECLoss

    info = MethodInfo(
        paper="Liu et al. 2022, arXiv 2210.11464",
        family="Gaussian entropy",
        target="momentum",
        entropy="coding length of both views by a series: entropy of a Gaussian (a surrogate)",
        reconstruction="the same: its first term is the alignment",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        distortion_per_dim: float = OPTIONS["distortion_per_dim"],
        order: int = OPTIONS["order"],
        distortion_warmup_epochs: int = OPTIONS["distortion_warmup_epochs"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        prediction_hidden_dim: int = OPTIONS["prediction_hidden_dim"],
        **training: Unpack[TargetOptions],
    ) -> None:
        """Defaults are those of MEC's code.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            distortion_per_dim: The share ε²/d.
            order: Terms of the series; with 1 the alignment alone is left, which a predictor and a
                slow target have to keep from collapsing.
            distortion_warmup_epochs: Epochs in which ε² falls to its value from 8 times as much,
                lest the series diverge.
            gather_distributed: Take the loss over the batch of all devices.
            projection_hidden_dim: Width of the projector's hidden layers.
            projection_dim: Dimension of the embedding.
            prediction_hidden_dim: Width of the predictor's hidden layer.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        if not distortion_warmup_epochs >= 0:
            raise ValueError(
                f"distortion_warmup_epochs must be at least 0 but is {distortion_warmup_epochs}."
            )
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
        self.criterion = MECLoss(distortion_per_dim, order, gather_distributed)
        self.distortion_warmup_epochs = distortion_warmup_epochs
        self.add_target()

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """The coding length of predictions and targets, at the epoch's distortion."""
        epochs = self.distortion_warmup_epochs
        share = min(1.0, self.current_epoch / epochs) if epochs else 1.0
        self.criterion.inflation = _FIRST_INFLATION + (1 - _FIRST_INFLATION) * share
        return super().multi_view_step(views)
