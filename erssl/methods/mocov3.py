"""MoCo v3 (arXiv 2104.02057): contrast with a momentum branch's keys of the same batch."""

from __future__ import annotations

from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn
from typing_extensions import Unpack

from erssl.methods.base import MultiViewMethod
from erssl.methods.cmc import InfoNCELoss
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TargetOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("mocov3").options


@register_method("mocov3")
class MoCoV3(MultiViewMethod):
    """BYOL's network with InfoNCE: the prediction finds its key in the batch, both ways."""

    info = MethodInfo(
        paper="Chen et al. 2021, arXiv 2104.02057",
        family="contrastive",
        target="momentum",
        entropy="negatives of the other view (InfoNCE, a lower bound of the information)",
        reconstruction="temperature, predictor",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        temperature: float = OPTIONS["temperature"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        prediction_hidden_dim: int = OPTIONS["prediction_hidden_dim"],
        **training: Unpack[TargetOptions],
    ) -> None:
        """Defaults are those of MoCo v3's code for ResNet-50.

        Vision transformers have a deeper projector there, temperature 0.2 and a frozen patch
        embedding; these are not built here.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            temperature: Of InfoNCE; 1.
            gather_distributed: Take negatives from all devices.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding.
            prediction_hidden_dim: Width of the predictor's hidden layer.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim,
            projection_hidden_dim,
            projection_dim,
            num_layers=2,
            output_norm=nn.BatchNorm1d(projection_dim, affine=False),
        )
        hidden_norm = nn.BatchNorm1d(prediction_hidden_dim)
        self.prediction_head = ProjectionHead(
            [
                (projection_dim, prediction_hidden_dim, hidden_norm, nn.ReLU()),
                (prediction_hidden_dim, projection_dim, None, None, False),
            ]
        )
        self.criterion = InfoNCELoss(temperature, gather_distributed)
        self.temperature = temperature
        self.add_target()

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """The prediction from each view finds the key of the other (Algorithm 1)."""
        k0, k1 = self.target_branch(views)
        features, online = self.online_branch(views)
        q0, q1 = (self.prediction_head(z) for z in online)
        loss = 2 * self.temperature * (self.criterion(q0, k1) + self.criterion(q1, k0))
        return StepOutput(loss, features, online[0], k1)
