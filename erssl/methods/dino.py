"""DINO (arXiv 2104.14294), on lightly's ``DINOLoss``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from erssl.entropy import log_neighbour_distance
from erssl.entropy.precision import at_least_float32, outside_autocast
from erssl.loss.center import SteadyDINOLoss
from erssl.loss.checks import check_weights
from erssl.loss.views import normalize_rows
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TargetOptions
from erssl.methods.registry import register_method
from erssl.models import Prototypes, mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("dino").options


class DINOOptions(TargetOptions, total=False):
    """Keyword options of DINO's network and soft-max."""

    num_prototypes: int
    temperature: float
    target_temperature: float
    center: bool
    center_momentum: float
    head_norm: bool
    freeze_prototypes_epochs: int
    koleo_weight: float
    projection_hidden_dim: int
    projection_dim: int


@register_method("dino")
class DINO(MultiViewMethod):
    """The online branch predicts the soft assignments of a momentum branch, centred and sharp."""

    info = MethodInfo(
        paper="Caron et al. 2021, arXiv 2104.14294",
        family="distillation",
        target="momentum",
        multi_crop=True,
        entropy="centring and a slow target (no term)",
        reconstruction="cross-entropy",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        num_prototypes: int = OPTIONS["num_prototypes"],
        temperature: float = OPTIONS["temperature"],
        target_temperature: float = OPTIONS["target_temperature"],
        center: bool = OPTIONS["center"],
        center_momentum: float = OPTIONS["center_momentum"],
        head_norm: bool = OPTIONS["head_norm"],
        freeze_prototypes_epochs: int = OPTIONS["freeze_prototypes_epochs"],
        koleo_weight: float = OPTIONS["koleo_weight"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TargetOptions],
    ) -> None:
        """Defaults are those of DINO's README for ResNet-50.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            num_prototypes: Number K of outputs.
            temperature: Of the online soft-max; 0.1.
            target_temperature: Of the target's soft-max; 0.04.
            center: Subtract a moving mean from the target's logits. Without it DINO collapses.
            center_momentum: Of the moving mean; 0.9.
            head_norm: Batch normalisation in the projector's hidden layers (``use_bn_in_head``).
            freeze_prototypes_epochs: Epochs at the beginning in which the last layer rests; 1.
            koleo_weight: Weight of DINOv2's KoLeo term, which parts the features of each global
                view's images from their nearest neighbours on the same device; 0.1 there, 0 for
                none.
            projection_hidden_dim: Width of the projector's two hidden layers.
            projection_dim: Dimension of the embedding, the bottleneck before the outputs.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim,
            projection_hidden_dim,
            projection_dim,
            num_layers=3,
            activation=nn.GELU,
            batch_norm=head_norm,
        )
        self.prototypes = Prototypes(projection_dim, num_prototypes)
        self.temperature = temperature
        self.target_temperature = target_temperature
        self.freeze_prototypes_epochs = freeze_prototypes_epochs
        check_weights(koleo_weight=koleo_weight)
        self.koleo_weight = koleo_weight
        self.criterion: nn.Module = SteadyDINOLoss(
            num_prototypes,
            teacher_temp=target_temperature,
            student_temp=temperature,
            # lightly's loss always centres; a centre that keeps its first value, 0, is none
            center_momentum=center_momentum if center else 1.0,
        )
        self.add_target("backbone", "projection_head", "prototypes")

    def logits(self, embedding: Tensor) -> Tensor:
        """Outputs (N, K) of an embedding, divided by the temperature."""
        logits: Tensor = self.prototypes(embedding) / self.temperature
        return logits

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Every online view against the targets of the other global views."""
        target = self.target_branch(views[:2])
        features, online = self.online_features(views)
        with outside_autocast(target[0]):
            outputs = self.prototypes(at_least_float32(torch.cat(online))).chunk(len(online))
            target_outputs = self.get_submodule("target_prototypes")(
                at_least_float32(torch.cat(target))
            ).chunk(2)
            loss = self._loss(list(outputs), list(target_outputs))
            if self.koleo_weight:
                distances = [log_neighbour_distance(normalize_rows(x)) for x in features[:2]]
                loss = loss - self.koleo_weight * sum(d.mean() for d in distances)
        return StepOutput(loss, features[0], online[0], target[1])

    def on_after_backward(self) -> None:
        """Let the last layer rest in the first epochs (DINO, appendix: it helps early training)."""
        if self.current_epoch < self.freeze_prototypes_epochs:
            for parameter in self.prototypes.parameters():
                parameter.grad = None

    def _loss(self, outputs: list[Tensor], target_outputs: list[Tensor]) -> Tensor:
        loss: Tensor = self.criterion(target_outputs, outputs)
        return loss
