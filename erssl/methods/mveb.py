"""MVEB: the multi-view entropy bottleneck (arXiv 2403.19078)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from typing_extensions import Unpack

from erssl.entropy.score_options import Geometry, Kernel, ShrinkTo
from erssl.errors import ConfigError
from erssl.loss import MVEBLoss
from erssl.loss.direct_entropy import DirectEntropy
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import Target, TargetOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("mveb").options


class MVEBOptions(TargetOptions, total=False):
    """Keyword options of MVEB beside those of its score."""

    bandwidth: float | None
    bandwidth_scale: float | Literal["auto"]
    kernel: Kernel
    target: Target
    normalize_local_target: bool
    gather_distributed: bool
    projection_hidden_dim: int
    projection_dim: int


@register_method("mveb")
class MVEB(MultiViewMethod):
    """Align views while the entropy of their embeddings stays high.

    Online and target branch embed the two global views; local views pass the online branch only
    and meet the mean of the targets. The online encoder is kept.
    """

    info = MethodInfo(
        paper="Wen et al. 2024, arXiv 2403.19078",
        family="entropy bottleneck",
        target="momentum or shared",
        multi_crop=True,
        entropy="its gradient, from a Stein estimate of the score",
        reconstruction="alignment",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        beta: float = OPTIONS["beta"],
        eta: float | Literal["auto"] = OPTIONS["eta"],
        geometry: Geometry = OPTIONS["geometry"],
        bandwidth: float | None = OPTIONS["bandwidth"],
        bandwidth_scale: float | Literal["auto"] = OPTIONS["bandwidth_scale"],
        kernel: Kernel = OPTIONS["kernel"],
        target: Target = OPTIONS["target"],
        normalize_local_target: bool = OPTIONS["normalize_local_target"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        score_rows: int | None = OPTIONS["score_rows"],
        shrink_to: ShrinkTo = OPTIONS["shrink_to"],
        entropy: DirectEntropy | None = OPTIONS["entropy"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TargetOptions],
    ) -> None:
        """Defaults are those of section 6.1 (ResNet-50, two views, momentum target).

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            beta: Weight of the entropy.
            eta: Ridge of the score estimate, or ``"auto"``.
            geometry: ``"euclidean"`` (the paper) or ``"sphere"``.
            bandwidth: Bandwidth of the kernel; ``None`` for the median distance.
            bandwidth_scale: Factor of the median, or ``"auto"``.
            kernel: ``"vmf"`` (the paper), or ``"rbf"`` of embeddings that are not normalised.
            target: EMA of the online branch (71.2 % in the paper's ablation), or shared weights
                with gradient on both sides (68.9 %).
            normalize_local_target: Normalise the mean target that local views meet.
            gather_distributed: Estimate the score from the batch of all devices.
            score_rows: Rows of which a score is estimated; 128 in the authors' main run, whose
                code takes the rows of one device (batch 4096 on 32 GPUs). ``None`` for all rows.
            shrink_to: What a ridge shrinks the score towards: ``"zero"`` (the paper) or ``"vmf"``.
            entropy: ``None``: its gradient by the score (the paper). ``"kde"`` of a kernel density
                at concentration 1 / bandwidth, or ``"knn"`` of the third neighbour.
            projection_hidden_dim: Width of the projector's two hidden layers.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        if target not in ("momentum", "shared"):
            raise ConfigError(f"method.target={target} is unknown; choose momentum or shared.")
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=3
        )
        self.criterion = MVEBLoss(
            beta,
            eta,
            geometry,
            bandwidth,
            normalize_local_target,
            gather_distributed,
            score_rows,
            shrink_to,
            bandwidth_scale,
            kernel,
            entropy,
        )
        if target == "momentum":
            self.add_target()

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Online views against the targets of the global ones (equation 11)."""
        followed = self.target_branch(views[:2]) if self.has_target else None
        features, online = self.online_branch(views)
        target = online[:2] if followed is None else followed
        loss = self.criterion(online, target)
        return StepOutput(loss, features, online[0], target[1])
