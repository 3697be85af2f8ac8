"""LeJEPA (arXiv 2511.08544): no target, no predictor, no stop-gradient."""

from __future__ import annotations

from typing_extensions import Unpack

from erssl.loss import LeJEPALoss
from erssl.methods.info import MethodInfo
from erssl.methods.options import TrainingOptions
from erssl.methods.projected import SharedViews
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("lejepa").options


@register_method("lejepa")
class LeJEPA(SharedViews):
    """Every view's embeddings are drawn towards an isotropic Gaussian, and towards each other."""

    info = MethodInfo(
        paper="Balestriero and LeCun 2025, arXiv 2511.08544",
        family="Gaussian embeddings",
        target="shared",
        multi_crop=True,
        entropy="sliced Epps-Pulley distance from N(0, I) (a surrogate)",
        reconstruction="mean squared error to the mean global view",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        lambda_param: float = OPTIONS["lambda_param"],
        num_slices: int = OPTIONS["num_slices"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are those of lightly's benchmark; the authors' code is under another licence.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            lambda_param: λ, weight of the distance; the squared error has 1 - λ. At 0 it collapses.
            num_slices: Directions that are drawn each step.
            gather_distributed: Take the loss over the batch of all devices.
            projection_hidden_dim: Width of the projector's hidden layers.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=3
        )
        self.criterion = LeJEPALoss(lambda_param, num_slices, gather_distributed)
