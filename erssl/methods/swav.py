"""SwAV (arXiv 2006.09882), on lightly's ``SwaVLoss``."""

from __future__ import annotations

import torch
from lightly.loss import SwaVLoss
from lightly.utils import dist
from torch import Tensor
from typing_extensions import Unpack

from erssl.entropy.precision import at_least_float32, outside_autocast
from erssl.errors import ConfigError
from erssl.loss.distributed import check_gather, rank_rows
from erssl.loss.memory import PersistentMemoryBank
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions
from erssl.methods.registry import register_method
from erssl.models import Prototypes, mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("swav").options


@register_method("swav")
class SwAV(MultiViewMethod):
    """Each view predicts to which prototypes a balanced assignment gives the global views.

    Prototypes are normalised inside :class:`Prototypes`, which has no bias; lightly's
    ``SwaVPrototypes`` has one, which the authors' code has not.
    """

    info = MethodInfo(
        paper="Caron et al. 2020, arXiv 2006.09882",
        family="clustering",
        target="stop-gradient",
        multi_crop=True,
        entropy="Sinkhorn-Knopp (a constraint)",
        reconstruction="cross-entropy with balanced codes",
    )

    criterion: SwaVLoss

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        num_prototypes: int = OPTIONS["num_prototypes"],
        temperature: float = OPTIONS["temperature"],
        sinkhorn_epsilon: float = OPTIONS["sinkhorn_epsilon"],
        sinkhorn_iterations: int = OPTIONS["sinkhorn_iterations"],
        queue_length: int = OPTIONS["queue_length"],
        queue_start_epoch: int = OPTIONS["queue_start_epoch"],
        freeze_prototypes_epochs: int = OPTIONS["freeze_prototypes_epochs"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are those of SwAV's code at batch 4096.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            num_prototypes: Number K of prototypes; 3000.
            temperature: Of the prediction; 0.1.
            sinkhorn_epsilon: ε, smoothness of the assignment; 0.05.
            sinkhorn_iterations: Of the assignment; 3.
            queue_length: Earlier embeddings of each global view, over all devices, that are
                assigned along with a small batch once there are so many; 3840 at batch 256.
            queue_start_epoch: Epoch from which the queue is filled; 15.
            freeze_prototypes_epochs: Epochs at the beginning in which the prototypes rest; 1.
            gather_distributed: Assign the batch of all devices at once.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        if not (temperature > 0 and sinkhorn_epsilon > 0):
            raise ConfigError(
                "method.temperature and method.sinkhorn_epsilon must be above 0 but are "
                f"{temperature} and {sinkhorn_epsilon}."
            )
        check_gather(gather_distributed)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=2
        )
        self.prototypes = Prototypes(projection_dim, num_prototypes)
        self.temperature = temperature
        self.freeze_prototypes_epochs = freeze_prototypes_epochs
        self.queue_start_epoch = queue_start_epoch
        self.gather_distributed = gather_distributed
        size = [queue_length, projection_dim] if queue_length else 0
        self.queue_length = queue_length
        self.queue0, self.queue1 = PersistentMemoryBank(size), PersistentMemoryBank(size)
        self.criterion = SwaVLoss(
            temperature, sinkhorn_iterations, sinkhorn_epsilon, gather_distributed
        )

    def logits(self, embedding: Tensor) -> Tensor:
        """Outputs (N, K) of an embedding, divided by the temperature."""
        logits: Tensor = self.prototypes(embedding) / self.temperature
        return logits

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Every view predicts the assignments of the other global views."""
        features, online = self.online_branch(views)
        with outside_autocast(online[0]):
            z = at_least_float32(torch.cat(online))
            outputs = list(self.prototypes(z).chunk(len(views)))
            companions = self._companions(outputs[:2])
            loss = self.criterion(outputs[:2], outputs[2:], companions).squeeze(0)
        self._enqueue(online[0], online[1])
        return StepOutput(loss, features, online[0], online[1])

    def on_after_backward(self) -> None:
        """Let the prototypes rest in the first epochs."""
        if self.current_epoch < self.freeze_prototypes_epochs:
            for parameter in self.prototypes.parameters():
                parameter.grad = None

    @torch.no_grad()
    def _companions(self, outputs: list[Tensor]) -> list[Tensor] | None:
        """Outputs that are assigned along with this device's; ``None`` until queues are full.

        lightly's Sinkhorn over devices takes each to have as many rows as this one. Where queues
        cannot be shared so, every device assigns all rows by itself.
        """
        queued = [self.queue0.rows(), self.queue1.rows()]
        full = [rows for rows in queued if rows is not None and len(rows) == self.queue_length]
        if len(full) < 2:
            return None
        rank, world = (dist.rank(), dist.world_size()) if self.gather_distributed else (0, 1)
        if self.queue_length % world == 0:
            return [self.prototypes(rows[rank::world]) for rows in full]
        self.criterion.sinkhorn_gather_distributed = False
        others = [
            torch.cat([o for r, o in enumerate(dist.gather(own.contiguous())) if r != rank])
            for own in outputs
        ]
        return [torch.cat([o, self.prototypes(q)]) for o, q in zip(others, full, strict=True)]

    @torch.no_grad()
    def _enqueue(self, z0: Tensor, z1: Tensor) -> None:
        started = self.current_epoch >= self.queue_start_epoch
        if self.training and self.queue0.enabled and started:
            for queue, z in ((self.queue0, z0), (self.queue1, z1)):
                queue.push(rank_rows(z, self.gather_distributed))
