"""SimCLR + ER (arXiv 2307.10907): SimCLR's network with the entropy-reconstruction bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from typing_extensions import Unpack

from erssl.entropy.kde import Estimator
from erssl.loss import ERLoss
from erssl.loss.concentration import Rule
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions, check_queue
from erssl.methods.registry import register_method
from erssl.models import mlp_head, shiftless_norm
from erssl.recipes import read_recipe

OPTIONS = read_recipe("simclr_er").options


class SimCLREROptions(TrainingOptions, total=False):
    """Keyword options of the bound and of SimCLR's network."""

    kappa: float | Rule
    reconstruction_kappa: float | None
    estimator: Estimator | Literal["koleo"]
    entropy_weight: float
    reconstruction_weight: float
    leave_one_out: bool
    memory_bank_size: int | Sequence[int]
    gather_distributed: bool
    output_norm: bool
    projection_hidden_dim: int
    projection_dim: int


@register_method("simclr_er")
class SimCLRER(MultiViewMethod):
    """Views of one branch; their entropy takes the place of negatives.

    The paper has two views. Local ones meet the mean of both global ones, as in MVEB.
    """

    info = MethodInfo(
        paper="Rodríguez-Gálvez et al. 2023, arXiv 2307.10907",
        family="entropy-reconstruction",
        target="shared",
        multi_crop=True,
        entropy="kernel density (an upper bound of the entropy, in expectation)",
        reconstruction="vMF density",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        kappa: float | Rule = OPTIONS["kappa"],
        reconstruction_kappa: float | None = OPTIONS["reconstruction_kappa"],
        estimator: Estimator | Literal["koleo"] = OPTIONS["estimator"],
        entropy_weight: float = OPTIONS["entropy_weight"],
        reconstruction_weight: float = OPTIONS["reconstruction_weight"],
        leave_one_out: bool = OPTIONS["leave_one_out"],
        memory_bank_size: int | Sequence[int] = OPTIONS["memory_bank_size"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        output_norm: bool = OPTIONS["output_norm"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are the ER paper's, but for ``leave_one_out`` (the paper: false).

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            kappa: Concentration of the kernel; 10. Or ``"best"`` or ``"learned"``, by likelihood.
            reconstruction_kappa: Of the reconstruction; ``None``: kappa, or 10 where
                that is a rule.
            estimator: ``"joe"``, ``"plugin"`` or ``"renyi2"`` of a kernel density, or ``"koleo"``
                of nearest neighbours.
            entropy_weight: Weight of the entropy; 1. At 0 it collapses.
            reconstruction_weight: Weight of the reconstruction; 1. At 0 views are not aligned.
            leave_one_out: Leave each sample out of its own density estimate.
            memory_bank_size: Size (n, d) of a queue for the entropy.
            gather_distributed: Take the entropy over the batch of all devices.
            output_norm: Batch normalisation, without shift, after the projector's last layer.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding; 128.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        check_queue(memory_bank_size, projection_dim)
        self.projection_head = mlp_head(
            self.feature_dim,
            projection_hidden_dim,
            projection_dim,
            num_layers=2,
            output_norm=shiftless_norm(projection_dim) if output_norm else None,
        )
        self.criterion = ERLoss(
            kappa,
            estimator,
            leave_one_out,
            gather_distributed,
            memory_bank_size,
            entropy_weight,
            reconstruction_weight,
            reconstruction_kappa,
        )

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Views of one branch, of which the global ones are targets too."""
        features, online = self.online_branch(views)
        z0, z1 = online[:2]
        loss = self.criterion(online, online[:2]) if online[2:] else self.criterion(z0, z1)
        return StepOutput(loss, features, z0, z1)
