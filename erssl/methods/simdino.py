"""SimDINO (arXiv 2502.10385): DINO without prototypes, centring and temperatures."""

from __future__ import annotations

from torch import nn
from typing_extensions import Unpack

from erssl.loss import SimDINOLoss
from erssl.methods.info import MethodInfo
from erssl.methods.options import TargetOptions
from erssl.methods.projected import TargetViews
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("simdino").options


@register_method("simdino")
class SimDINO(TargetViews):
    """DINO's branches and crops; a coding rate keeps the embeddings spread."""

    info = MethodInfo(
        paper="Wu et al. 2025, arXiv 2502.10385",
        family="distillation",
        target="momentum",
        multi_crop=True,
        entropy="coding rate: entropy of a Gaussian seen through noise (a surrogate)",
        reconstruction="alignment",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        distortion: float = OPTIONS["distortion"],
        gamma: float | None = OPTIONS["gamma"],
        smooth: bool = OPTIONS["smooth"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TargetOptions],
    ) -> None:
        """Defaults are those of SimDINO's code.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            distortion: The square ε² of the coding rate.
            gamma: Weight γ of the coding rate; ``None`` for 1/d + 1/N, its code's. At 0 it
                collapses.
            smooth: Take the rate of the mean of online and target embeddings.
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
            batch_norm=False,
        )
        self.criterion = SimDINOLoss(distortion, gamma, smooth, gather_distributed)
        self.add_target()
