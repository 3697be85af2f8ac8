"""VISReg (arXiv 2606.02572): scale, shape and centre by a term each."""

from __future__ import annotations

from torch import nn
from typing_extensions import Unpack

from erssl.loss import VISRegLoss
from erssl.methods.info import MethodInfo
from erssl.methods.options import TrainingOptions
from erssl.methods.projected import SharedViews
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("visreg").options


@register_method("visreg")
class VISReg(SharedViews):
    """LeJEPA with a sliced Wasserstein distance, and scale apart from shape."""

    info = MethodInfo(
        paper="Wu et al. 2026, arXiv 2606.02572",
        family="Gaussian embeddings",
        target="shared",
        multi_crop=True,
        entropy="variance, mean and sliced Wasserstein-2 distance from N(0, I) (a surrogate)",
        reconstruction="mean squared error to the mean global view",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        lambda_param: float = OPTIONS["lambda_param"],
        num_slices: int = OPTIONS["num_slices"],
        shape_weight: float = OPTIONS["shape_weight"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are the paper's, as lightly's benchmark quotes them.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            lambda_param: λ, weight of the three terms; the squared error has 1 - λ. At 0 it
                collapses.
            num_slices: Directions that are drawn each step.
            shape_weight: Weight of the Wasserstein distance.
            gather_distributed: Take the loss over the batch of all devices.
            projection_hidden_dim: Width of the projector's hidden layers.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim,
            projection_hidden_dim,
            projection_dim,
            num_layers=3,
            activation=nn.GELU,
        )
        self.criterion = VISRegLoss(lambda_param, num_slices, shape_weight, gather_distributed)
