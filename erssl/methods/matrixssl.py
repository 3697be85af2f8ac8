"""Matrix-SSL (arXiv 2305.17326): matrix cross-entropies between covariances."""

from __future__ import annotations

from torch import nn
from typing_extensions import Unpack

from erssl.loss import MatrixSSLLoss
from erssl.methods.info import MethodInfo
from erssl.methods.options import TargetOptions
from erssl.methods.projected import TargetViews
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("matrixssl").options


@register_method("matrixssl")
class MatrixSSL(TargetViews):
    """MEC's network; uniformity of the cross-covariance, and covariances that agree."""

    info = MethodInfo(
        paper="Zhang et al. 2023, arXiv 2305.17326",
        family="Gaussian entropy",
        target="momentum",
        entropy="log-determinant of the cross-covariance by a series (a surrogate)",
        reconstruction="the same, and the matrix cross-entropy of covariances",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        uniformity_weight: float = OPTIONS["uniformity_weight"],
        gamma: float = OPTIONS["gamma"],
        order: int = OPTIONS["order"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        prediction_hidden_dim: int = OPTIONS["prediction_hidden_dim"],
        **training: Unpack[TargetOptions],
    ) -> None:
        """Defaults are those of Matrix-SSL's README and code.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            uniformity_weight: Weight of the log-determinant.
            gamma: Weight of the matrix cross-entropy.
            order: Terms of the series.
            gather_distributed: Take the loss over the batch of all devices.
            projection_hidden_dim: Width of the projector's hidden layers.
            projection_dim: Dimension of the embedding.
            prediction_hidden_dim: Width of the predictor's hidden layer.
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
        self.criterion = MatrixSSLLoss(uniformity_weight, gamma, order, gather_distributed)
        self.add_target()
