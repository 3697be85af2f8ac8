"""NNCLR (arXiv 2104.14548): the nearest neighbour in a queue stands for a view."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from erssl.entropy.precision import at_least_float32, outside_autocast
from erssl.loss.distributed import rank_rows
from erssl.loss.memory import PersistentMemoryBank
from erssl.methods.base import MultiViewMethod
from erssl.methods.cmc import InfoNCELoss
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("nnclr").options


@register_method("nnclr")
class NNCLR(MultiViewMethod):
    """Each prediction finds the neighbour of its other view among those of the batch.

    The queue is kept in checkpoints, which lightly's ``NNMemoryBankModule`` is not, and holds only
    what was written; until there is something, a view stands for itself.
    """

    info = MethodInfo(
        paper="Dwibedi et al. 2021, arXiv 2104.14548",
        family="contrastive",
        target="nearest neighbours",
        entropy="negatives of the other view (InfoNCE, a lower bound of the information)",
        reconstruction="temperature, with a neighbour's embedding",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        temperature: float = OPTIONS["temperature"],
        memory_bank_size: int = OPTIONS["memory_bank_size"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        prediction_hidden_dim: int = OPTIONS["prediction_hidden_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are the paper's.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            temperature: Of InfoNCE.
            memory_bank_size: Embeddings of earlier images among which neighbours are found.
            gather_distributed: Take negatives and neighbours from all devices.
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
            output_norm=nn.BatchNorm1d(projection_dim),
        )
        self.prediction_head = mlp_head(
            projection_dim, prediction_hidden_dim, projection_dim, num_layers=2
        )
        self.gather_distributed = gather_distributed
        if memory_bank_size < 1:
            raise ValueError(
                "NNCLR finds neighbours among memory_bank_size embeddings, at least 1, but has "
                f"memory_bank_size={memory_bank_size}."
            )
        self.memory_bank = PersistentMemoryBank([memory_bank_size, projection_dim])
        self.criterion = InfoNCELoss(temperature, gather_distributed)

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """The neighbour of each view against the predictions from the other."""
        features, (z0, z1) = self.online_branch(views)
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        n0, n1 = self._neighbours(z0), self._neighbours(z1)
        loss = 0.5 * (self.criterion(n0, p1) + self.criterion(n1, p0))
        if self.training:  # the first view's, as the paper's algorithm
            rows = F.normalize(at_least_float32(z0.detach()), dim=1)
            self.memory_bank.push(rank_rows(rows, self.gather_distributed))
        return StepOutput(loss, features, z0, z1)

    @torch.no_grad()
    def _neighbours(self, z: Tensor) -> Tensor:
        z = F.normalize(at_least_float32(z), dim=1)
        rows = self.memory_bank.rows()
        if rows is None:
            return z
        rows = rows.to(z)
        with outside_autocast(z):  # rounded cosines mistake the neighbour
            return rows[(z @ rows.T).argmax(dim=1)]
