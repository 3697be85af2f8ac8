"""BYOL + ER (arXiv 2307.10907): BYOL's network with the entropy-reconstruction bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from typing_extensions import Unpack

from erssl.entropy.kde import Estimator
from erssl.errors import ConfigError
from erssl.loss import ERLoss
from erssl.methods.byol import BYOL, BYOLOptions
from erssl.methods.info import MethodInfo
from erssl.methods.options import check_queue
from erssl.methods.registry import register_method
from erssl.recipes import read_recipe

RECIPE = read_recipe("byol_er")
OPTIONS = RECIPE.options


@register_method("byol_er")
class BYOLER(BYOL):
    """BYOL whose prediction is the mean of q, and whose entropy is kept up explicitly."""

    info = MethodInfo(
        paper="Rodríguez-Gálvez et al. 2023, arXiv 2307.10907",
        family="entropy-reconstruction",
        target="momentum",
        entropy="kernel density (an upper bound of the entropy, in expectation)",
        reconstruction="vMF density around a prediction",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        kappa: float = OPTIONS["kappa"],
        estimator: Estimator | Literal["koleo"] = OPTIONS["estimator"],
        entropy_weight: float = OPTIONS["entropy_weight"],
        leave_one_out: bool = OPTIONS["leave_one_out"],
        entropy_of: Literal["projection", "prediction"] = OPTIONS["entropy_of"],
        memory_bank_size: int | Sequence[int] = OPTIONS["memory_bank_size"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        **network: Unpack[BYOLOptions],
    ) -> None:
        """Defaults are the ER paper's, but for ``leave_one_out`` (the paper: false).

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            kappa: Concentration of kernel and reconstruction; 10.
            estimator: ``"joe"``, ``"plugin"`` or ``"renyi2"`` of a kernel density, or ``"koleo"``
                of nearest neighbours.
            entropy_weight: Weight of the entropy; 1.
            leave_one_out: Leave each sample out of its own density estimate.
            entropy_of: Which online embedding stands for the target's in the entropy. The paper
                does not say; the projection is the target's own online counterpart.
            memory_bank_size: Size (n, d) of a queue for the entropy.
            gather_distributed: Take the entropy over the batch of all devices.
            **network: See :class:`BYOL`.
        """
        network = RECIPE.options_of(BYOLOptions) | network
        super().__init__(batch_size_per_device, num_classes, **network)
        if entropy_of not in ("projection", "prediction"):
            raise ConfigError(
                f"method.entropy_of={entropy_of} is unknown; choose projection or prediction."
            )
        check_queue(memory_bank_size, network["projection_dim"])
        self.entropy_of = entropy_of
        self.criterion = ERLoss(
            kappa,
            estimator,
            leave_one_out,
            gather_distributed,
            memory_bank_size,
            entropy_weight,
        )

    def _loss(
        self, online: list[Tensor], predictions: list[Tensor], target: list[Tensor]
    ) -> Tensor:
        spread = online if self.entropy_of == "projection" else predictions
        loss: Tensor = self.criterion(predictions, target, spread)
        return loss
