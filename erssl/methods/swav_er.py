"""SwAV's network with the discrete entropy-reconstruction bound in place of Sinkhorn-Knopp."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from erssl.entropy.precision import at_least_float32, outside_autocast
from erssl.loss import DiscreteERLoss
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions
from erssl.methods.registry import register_method
from erssl.models import Prototypes, mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("swav_er").options


@register_method("swav_er")
class SwAVER(MultiViewMethod):
    """Views predict each other's soft cluster; the entropy of the clusters keeps all in use.

    SwAV (arXiv 2006.09882) balances the codes of a batch by Sinkhorn-Knopp. Here a code is the
    soft-max of the scores as it is, and the entropy of the batch's mean code is maximised instead
    (ER paper, section on clustering methods). Both terms give the codes their gradient, as in
    EntRec: with codes held fixed all images fell into the same code (docs/er.md).
    """

    info = MethodInfo(
        paper="Rodríguez-Gálvez et al. 2023, arXiv 2307.10907",
        family="entropy-reconstruction",
        target="shared",
        multi_crop=True,
        entropy="entropy of the mean code (a lower bound, in expectation)",
        reconstruction="cross-entropy with soft codes",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        num_prototypes: int = OPTIONS["num_prototypes"],
        temperature: float = OPTIONS["temperature"],
        target_temperature: float = OPTIONS["target_temperature"],
        local_view_weight: float = OPTIONS["local_view_weight"],
        entropy_weight: float = OPTIONS["entropy_weight"],
        reconstruction_weight: float = OPTIONS["reconstruction_weight"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are SwAV's network; the ER paper trains none.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            num_prototypes: Number K of clusters; 3000 in SwAV.
            temperature: Of the predictions; 0.1 in SwAV.
            target_temperature: Of the codes; 0.05, SwAV's Sinkhorn epsilon.
            local_view_weight: Weight of a local view, where a global one's is 1. In SwAV's loss a
                local view meets both codes and a global one that of the other: 2.
            entropy_weight: Weight of the entropy; 1. At 0 all images fall into one cluster.
            reconstruction_weight: Weight of the reconstruction; 1. At 0 views are not aligned.
            gather_distributed: Take the entropy over the batch of all devices.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=2
        )
        self.prototypes = Prototypes(projection_dim, num_prototypes)
        self.criterion = DiscreteERLoss(
            temperature,
            target_temperature,
            gather_distributed=gather_distributed,
            local_view_weight=local_view_weight,
            entropy_temperature=target_temperature,
            entropy_weight=entropy_weight,
            reconstruction_weight=reconstruction_weight,
        )

    def logits(self, embedding: Tensor) -> Tensor:
        """Scores (N, K) of an embedding, divided by the temperature."""
        logits: Tensor = self.prototypes(embedding) / self.criterion.temperature
        return logits

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Predictions of every view against the codes of the other global views."""
        features, online = self.online_branch(views)
        with outside_autocast(online[0]):
            scores = list(self.prototypes(at_least_float32(torch.cat(online))).chunk(len(online)))
            loss = self.criterion(scores, scores[:2])
        return StepOutput(loss, features, online[0], online[1])
