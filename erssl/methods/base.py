"""What all methods share: optimiser, target branch, logging, online probe.

A method of its own is a short file: it builds a head and a criterion in ``__init__`` and says in
``multi_view_step`` who is online, who is target and what the loss sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from lightly.utils.benchmarking import OnlineLinearClassifier
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from erssl.data import ViewOptions
from erssl.errors import ConfigError
from erssl.loss.state import StepState, hold_state, states_of
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.optimizer import OptimizerOptions, build_optimizer, can_fuse, counting_steps
from erssl.methods.options import TargetOptions, TrainingOptions
from erssl.methods.step_log import log_step
from erssl.methods.target import TargetBranch
from erssl.models import BackboneOptions, build_backbone
from erssl.models.saving import checkpoint_header

__all__ = ["MethodInfo", "MultiViewMethod", "StepOutput", "TargetOptions", "TrainingOptions"]


class MultiViewMethod(TargetBranch):
    """Base of every method; runs in ``erssl pretrain`` and in lightly's benchmark script.

    Attributes:
        backbone: The online backbone, which is evaluated and kept.
        projection_head: Maps features to embeddings, what the loss sees.
        criterion: The loss.
        online_classifier: lightly's linear probe, trained beside on detached features.
        info: Paper, family, views and target branch.
        default_optimizer: The optimiser of the method's recipe; this and the next three are set
            by ``register_method`` where the method has a recipe file.
        default_backbone: Its backbone.
        default_momentum: Its EMA of the target, at the first and the last step.
        default_views: Its views.
        constant_lr: Names of modules whose learning rate is not scheduled.
    """

    info: ClassVar[MethodInfo]
    default_optimizer: ClassVar[OptimizerOptions] = OptimizerOptions()
    default_backbone: ClassVar[BackboneOptions] = BackboneOptions("resnet50")
    default_momentum: ClassVar[tuple[float, float]] = (0.996, 1.0)
    default_views: ClassVar[ViewOptions | None] = None
    constant_lr: ClassVar[tuple[str, ...]] = ()

    backbone: nn.Module
    projection_head: nn.Module
    criterion: nn.Module

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        backbone: nn.Module | str | None = None,
        optimizer: OptimizerOptions | None = None,
        momentum_start: float | None = None,
        momentum_end: float | None = None,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        """Set up what does not differ between methods.

        Args:
            batch_size_per_device: Images per step and device; scales the learning rate.
            num_classes: Classes of the online probe.
            backbone: A module with ``feature_dim``, or the name of a torchvision ResNet; ``None``
                takes the paper's.
            optimizer: Optimiser and schedule; ``None`` takes the paper's.
            momentum_start: EMA of the target at the first step; ``None`` takes the paper's.
            momentum_end: EMA of the target at the last step, reached by a cosine; ``None`` takes
                the paper's.
            channels_last: Keep images and weights in channels-last memory.
            compile: Compile the backbones with ``torch.compile``.

        Raises:
            ConfigError: If a momentum is out of range.
        """
        super().__init__()
        start, end = self.default_momentum
        momentum_start = start if momentum_start is None else momentum_start
        momentum_end = end if momentum_end is None else momentum_end
        if not 0 <= momentum_start <= momentum_end <= 1:
            raise ConfigError(
                "The target's momentum must satisfy 0 <= momentum_start <= momentum_end <= 1 but "
                f"goes from {momentum_start} to {momentum_end}."
            )
        self.batch_size_per_device = batch_size_per_device
        self.backbone = (
            backbone
            if isinstance(backbone, nn.Module)
            else build_backbone(backbone or self.default_backbone)
        )
        self._states: list[StepState] | None = None
        self.feature_dim = int(self.backbone.feature_dim)  # type: ignore[arg-type]
        self.optimizer_options = optimizer or self.default_optimizer
        self.momentum_start = momentum_start
        self.momentum_end = momentum_end
        self.channels_last = False
        if channels_last:
            self.use_channels_last()
        self.compiled = compile
        if compile:
            self.backbone.compile()
        self.online_classifier = OnlineLinearClassifier(
            self.feature_dim, num_classes, topk=tuple(k for k in (1, 5) if k <= num_classes)
        )

    def use_channels_last(self) -> None:
        """Keep images and the weights of the backbones in channels-last memory from now on."""
        self.channels_last = True
        for name in ("backbone", "target_backbone"):
            if hasattr(self, name):
                self.get_submodule(name).to(memory_format=torch.channels_last)

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Compute the loss of a batch.

        Args:
            views: Global views (N, 3, H, W), then local views, as the view recipe gives them.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Backbone features (N, feature_dim) of images (N, 3, H, W)."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.backbone(images)
        return features.flatten(start_dim=1)

    def embed(self, images: Tensor) -> Tensor:
        """Embedding (N, d) that the loss sees, of images (N, 3, H, W)."""
        embedding: Tensor = self.projection_head(self(images))
        return embedding

    def logits(self, embedding: Tensor) -> Tensor | None:
        """Logits (N, K) whose soft-max the loss sees, of an embedding (N, d); ``None`` without."""
        return None

    def online_branch(self, views: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Features of view 0 and embeddings of every view, one pass per image size."""
        features, embeddings = self.online_features(views)
        return features[0], embeddings

    def online_features(self, views: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Features and embeddings of every view, one pass per image size."""
        features: list[Tensor] = []
        embeddings: list[Tensor] = []
        for group in _group_by_size(views):
            group_features = self(torch.cat(group))
            features += group_features.chunk(len(group))
            embeddings += self.projection_head(group_features).chunk(len(group))
        return features, embeddings

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """Buffers that torch's DDP, which looks for this name, is not to send before every step.

        By default the first rank's go to all others. What a method keeps, such as clusters, is the
        same everywhere already where it gathers, and each rank's own where it does not. Only batch
        statistics are left to DDP.
        """
        norms = {
            f"{name}.{buffer}"
            for name, module in self.named_modules()
            if isinstance(module, _BatchNorm)
            for buffer, _ in module.named_buffers(recurse=False)
        }
        return [name for name, _ in self.named_buffers() if name not in norms]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the length of the schedule be that of the settings, which may have grown."""
        for scheduler in checkpoint.get("lr_schedulers", ()):
            self.scheduled_before = scheduler.pop("max_epochs", None)  # steps, as lightly names it
            scheduler.pop("warmup_epochs", None)

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        """Loss of a batch (views, labels, …) plus that of the online probe."""
        views, labels = batch[0], batch[1]
        states = self._step_states() if self.automatic_optimization else []
        with hold_state(states):
            step = self.multi_view_step(views)
        log_step(self, step, len(labels))
        probe_loss, probe_log = self.online_classifier.training_step(
            (step.features.detach(), labels), batch_idx
        )
        self.log_dict(probe_log, batch_size=len(labels), on_step=False, on_epoch=True)
        loss: Tensor = step.loss + probe_loss
        return loss

    def validation_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        """Accuracy of the online probe on a batch (images, labels, …)."""
        images, labels = batch[0], batch[1]
        loss: Tensor
        loss, probe_log = self.online_classifier.validation_step((self(images), labels), batch_idx)
        self.log_dict(probe_log, batch_size=len(labels), sync_dist=True)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say in the checkpoint what the backbone is, for ``load_backbone``."""
        data = getattr(getattr(self.trainer, "datamodule", None), "options", None)
        checkpoint |= checkpoint_header(self.backbone, getattr(data, "preprocessing", {}))

    def configure_optimizers(self) -> Any:
        """Optimiser and per-step schedule of :class:`OptimizerOptions`."""
        trainer = self.trainer
        return build_optimizer(
            self.optimizer_options,
            self.trained_modules(),
            self.online_classifier,
            self.batch_size_per_device * trainer.world_size * trainer.accumulate_grad_batches,
            int(trainer.estimated_stepping_batches),
            trainer.max_epochs or 1,
            [self.get_submodule(name) for name in self.constant_lr],
            can_fuse(trainer, self.device),
        )

    def trained_modules(self) -> list[nn.Module]:
        """Modules that the optimiser trains, the online probe aside: whatever takes a gradient."""
        others = [module for name, module in self.named_children() if name != "online_classifier"]
        return [m for m in others if any(p.requires_grad for p in m.parameters())]

    def on_fit_start(self) -> None:
        """Look for states anew: a criterion may have been exchanged."""
        self._states = None

    def kept_tensors(self) -> list[Tensor]:
        """What losses keep: queues, centres and moments, which are no buffers."""
        return [value for state in states_of(self) for _, value in state.named_state()]

    def _step_states(self) -> list[StepState]:
        if self._states is None:
            self._states = states_of(self)
        return self._states

    def commit_state(self) -> None:
        """Move centres, queues and moments by what the calls of a step have given."""
        for state in self._step_states():
            state.commit()

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Step the optimiser, then let state and target follow, whatever is accumulated.

        A step that float16's scaler leaves out, since gradients overflow, moves neither.
        """
        step, last = self.trainer.global_step, int(self.trainer.estimated_stepping_batches)
        with counting_steps(optimizer) as steps:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if not steps:
            for state in self._step_states():
                state.discard()
            return
        self.commit_state()
        if all(p.grad is None for p in self.parameters()):  # on_nonfinite left the step out
            return
        momentum = cosine_schedule(min(step, last), last, self.momentum_start, self.momentum_end)
        self.move_target(momentum)


def _group_by_size(views: Sequence[Tensor]) -> list[list[Tensor]]:
    """Consecutive views of one size together, so that each size takes a single pass."""
    groups: list[list[Tensor]] = []
    for view in views:
        if groups and groups[-1][0].shape == view.shape:
            groups[-1].append(view)
        else:
            groups.append([view])
    return groups
