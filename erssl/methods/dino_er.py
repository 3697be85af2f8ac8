"""DINO + ER (arXiv 2307.10907): DINO's network with the discrete entropy-reconstruction bound."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from erssl.loss import DiscreteERLoss
from erssl.methods.dino import DINO, DINOOptions
from erssl.methods.info import MethodInfo
from erssl.methods.registry import register_method
from erssl.recipes import read_recipe

RECIPE = read_recipe("dino_er")
OPTIONS = RECIPE.options


@register_method("dino_er")
class DINOER(DINO):
    """DINO whose outputs stay in use because their entropy is part of the loss."""

    info = MethodInfo(
        paper="Rodríguez-Gálvez et al. 2023, arXiv 2307.10907",
        family="entropy-reconstruction",
        target="momentum",
        multi_crop=True,
        entropy="entropy of the mean soft-max (a lower bound, in expectation)",
        reconstruction="cross-entropy",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        local_view_weight: float = OPTIONS["local_view_weight"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        **network: Unpack[DINOOptions],
    ) -> None:
        """Defaults are the ER paper's: DINO's, centring included, which may be switched off.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            local_view_weight: Weight of a local view, where a global one's is 1. In DINO's loss a
                local view meets both targets and a global one that of the other: 2.
            gather_distributed: Take the entropy over the batch of all devices.
            **network: See :class:`DINO`.
        """
        network = RECIPE.options_of(DINOOptions) | network
        super().__init__(batch_size_per_device, num_classes, **network)
        self.criterion = DiscreteERLoss(
            self.temperature,
            self.target_temperature,
            center=network["center"],
            output_dim=network["num_prototypes"],
            center_momentum=network["center_momentum"],
            local_view_weight=local_view_weight,
            gather_distributed=gather_distributed,
        )

    def _loss(self, outputs: list[Tensor], target_outputs: list[Tensor]) -> Tensor:
        loss: Tensor = self.criterion(outputs, target_outputs)
        return loss
