"""DeepCluster's clusters with the discrete entropy-reconstruction bound (arXiv 2307.10907)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from erssl.loss import DiscreteERLoss
from erssl.methods.deepclusterv2 import DeepClusterOptions, DeepClusterV2
from erssl.methods.info import MethodInfo
from erssl.methods.registry import register_method
from erssl.recipes import read_recipe

RECIPE = read_recipe("deepcluster_er")
OPTIONS = RECIPE.options


@register_method("deepcluster_er")
class DeepClusterER(DeepClusterV2):
    """DeepCluster whose predictions keep all clusters in use by their entropy.

    DeepCluster samples images uniformly over clusters, and refills empty ones, to keep the
    entropy of the clusters high. Here neither is needed: the entropy of the batch's mean
    prediction is part of the loss.
    """

    info = MethodInfo(
        paper="Rodríguez-Gálvez et al. 2023, arXiv 2307.10907",
        family="entropy-reconstruction",
        target="k-means clusters",
        multi_crop=True,
        entropy="entropy of the mean soft-max (a lower bound, in expectation)",
        reconstruction="cross-entropy with k-means clusters",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        gather_distributed: bool = OPTIONS["gather_distributed"],
        **clustering: Unpack[DeepClusterOptions],
    ) -> None:
        """Defaults are DeepCluster v2's; the ER paper trains none.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            gather_distributed: Take the entropy over the batch of all devices.
            **clustering: See :class:`DeepClusterV2`.
        """
        clustering = RECIPE.options_of(DeepClusterOptions) | clustering
        super().__init__(batch_size_per_device, num_classes, **clustering)
        # A cluster is a distribution on one outcome: its logarithm stands for the target's logits.
        self.criterion = DiscreteERLoss(
            self.temperature, target_temperature=1.0, gather_distributed=gather_distributed
        )

    def _loss(self, z: list[Tensor], prototypes: Tensor) -> Tensor:
        scores = [v @ prototypes.T for v in z]
        clusters = [F.one_hot(s.argmax(dim=1), s.shape[1]).float().log() for s in scores[:2]]
        loss: Tensor = self.criterion(scores, clusters)
        return loss
