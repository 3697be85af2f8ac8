"""DINO + ER (arXiv 2307.10907): DINO's network with the discrete entropy-reconstruction bound."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from erssl.loss import DiscreteERLoss
from erssl.methods.base import MethodInfo
from erssl.methods.dino import DINO, DINOOptions, transform
from erssl.methods.registry import register_method


@register_method("dino_er", transform)
class DINOER(DINO):
    """DINO whose outputs stay in use because their entropy is part of the loss."""

    info = MethodInfo(
        paper="Rodríguez-Gálvez et al. 2023, arXiv 2307.10907",
        family="entropy-reconstruction",
        target="momentum",
        multi_crop=True,
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        gather_distributed: bool = True,
        **network: Unpack[DINOOptions],
    ) -> None:
        """Defaults are the ER paper's: DINO's, centring included, which may be switched off.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            gather_distributed: Take the entropy over the batch of all devices.
            **network: See :class:`DINO`.
        """
        super().__init__(batch_size_per_device, num_classes, **network)
        self.criterion = DiscreteERLoss(
            self.temperature,
            network.get("target_temperature", 0.04),
            center=network.get("center", True),
            output_dim=network.get("num_prototypes", 60000),
            center_momentum=network.get("center_momentum", 0.9),
            gather_distributed=gather_distributed,
        )

    def _loss(self, outputs: list[Tensor], target_outputs: list[Tensor]) -> Tensor:
        loss: Tensor = self.criterion(outputs, target_outputs)
        return loss
