"""What all methods share: optimiser, target branch, logging, online probe.

A method of its own is a short file: it builds a head and a criterion in ``__init__`` and says in
``multi_view_step`` who is online, who is target and what the loss sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypedDict, cast

import torch
import torch.nn.functional as F
from lightly.utils.benchmarking import OnlineLinearClassifier
from lightly.utils.scheduler import cosine_schedule
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from erssl.data import ViewOptions
from erssl.entropy import kde_entropy, knn_entropy, sphere_log_area
from erssl.errors import ConfigError
from erssl.loss.state import StepState, at_least_float32, hold_state, states_of
from erssl.methods.optimizer import OptimizerOptions, build_optimizer, can_fuse, counting_steps
from erssl.methods.target import make_target, update_target
from erssl.models import BackboneOptions, build_backbone
from erssl.models.saving import checkpoint_header

Target = Literal["momentum", "shared"]
MONITOR_KAPPA = 10.0  # κ of the train_entropy that is logged for every method (ER paper)
MONITOR_NEIGHBOUR = 3  # of the nats below uniform that are logged, see knn_entropy


@dataclass(frozen=True)
class MethodInfo:
    """What ``erssl methods`` says of a method.

    Attributes:
        paper: Authors, year and where to find it.
        family: What it does against collapse.
        target: The branch that views are compared with.
        multi_crop: Whether it takes local views beside the two global ones.
        min_views: How many views it needs.
        entropy: Which term keeps the entropy of the embeddings up: the estimator, and whether it
            is a bound or a surrogate.
        reconstruction: Which term holds views together.
    """

    paper: str
    family: str
    target: str
    multi_crop: bool = False
    min_views: int = 2
    entropy: str = ""
    reconstruction: str = ""

    @property
    def views(self) -> str:
        """The views that it takes, in words."""
        if self.min_views == 1:
            return "1 or more"
        return "2, or 2 + local views" if self.multi_crop else "2"


class TrainingOptions(TypedDict, total=False):
    """Keyword options that every method takes."""

    backbone: nn.Module | str | None
    optimizer: OptimizerOptions | None
    channels_last: bool
    compile: bool


class TargetOptions(TrainingOptions, total=False):
    """Keyword options of methods with a target branch that follows by an EMA."""

    momentum_start: float
    momentum_end: float


class StepOutput(NamedTuple):
    """What one step gives: the loss, and what logging and probes look at."""

    loss: Tensor
    features: Tensor  # (N, feature_dim) of view 0
    online: Tensor  # (N, d) of view 0
    target: Tensor  # (N, d) that view 0 meets


class MultiViewMethod(LightningModule):
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
        self._with_target: tuple[str, ...] = ()
        self._states: list[StepState] | None = None
        self.feature_dim = int(self.backbone.feature_dim)  # type: ignore[arg-type]
        self.optimizer_options = optimizer or self.default_optimizer
        self.momentum_start = momentum_start
        self.momentum_end = momentum_end
        self.channels_last = channels_last
        if channels_last:
            self.backbone.to(memory_format=torch.channels_last)
        self.compiled = compile
        if compile:
            self.backbone.compile()
        self.online_classifier = OnlineLinearClassifier(
            self.feature_dim, num_classes, topk=tuple(k for k in (1, 5) if k <= num_classes)
        )

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
    def has_target(self) -> bool:
        """Whether there is a target branch with weights of its own."""
        return bool(self._with_target)

    @torch.no_grad()
    def target_branch(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Embeddings of the global views by the target branch.

        Best computed before the online branch, whose activations then are not held beside it.
        """
        if not self.has_target:
            raise RuntimeError("This method has no target branch; call add_target in __init__.")
        images = torch.cat(list(views))
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with self._target_precision(images):
            features = self.get_submodule("target_backbone")(images).flatten(start_dim=1)
            embeddings: Tensor = self.get_submodule("target_projection_head")(features)
        return list(embeddings.chunk(len(views)))

    def _target_precision(self, images: Tensor) -> AbstractContextManager[None]:
        """Let a float32 target compute in the half precision that the whole training is of."""
        if images.dtype not in (torch.float16, torch.bfloat16):
            return nullcontext()
        return torch.autocast(images.device.type, images.dtype)

    def slow_tensors(self) -> list[Tensor]:
        """What moves by small steps and is therefore kept in float32 at least: the target's."""
        targets = [self.get_submodule(f"target_{name}") for name in self._with_target]
        return [x for target in targets for x in (*target.parameters(), *target.buffers())]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MultiViewMethod:
        """Go to another device or precision; slow tensors to no half precision."""
        slow = {id(x): x for x in self.slow_tensors()}  # held, lest an id be given anew

        def move(x: Tensor) -> Tensor:
            return at_least_float32(fn, x) if id(x) in slow else fn(x)

        return cast(MultiViewMethod, super()._apply(move, recurse))

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

    def add_target(self, *names: str) -> None:
        """Give the method a target branch: ``target_<name>``, a copy of each online module.

        Args:
            names: Modules of the branch; by default ``backbone`` and ``projection_head``.
        """
        self._with_target = names or ("backbone", "projection_head")
        for name in self._with_target:
            target = make_target(self.get_submodule(name))
            if name == "backbone" and self.compiled:
                target.compile()
            self.add_module(f"target_{name}", target)

    @torch.no_grad()
    def reset_target(self) -> None:
        """Make the target branch a copy of the online branch again."""
        for name in self._with_target:
            update_target(self.get_submodule(name), self.get_submodule(f"target_{name}"), 0.0)

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
        self._log_step(step, len(labels))
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
        for name in self._with_target:
            update_target(self.get_submodule(name), self.get_submodule(f"target_{name}"), momentum)

    @torch.no_grad()
    def _log_step(self, step: StepOutput, batch_size: int) -> None:
        """Loss and its terms; for every method alike entropy and alignment of view 0.

        Of this device's rows: ``train_nats_below_uniform`` is a nearest-neighbour estimate of the
        entropy less that of the uniform density, ``train_entropy`` the ER paper's leave-one-out
        KDE at κ = 10 with all its constants, the alignment the mean cosine with the target. They,
        and the learning rate, are taken where loggers take a row and at an epoch's end.
        """
        self.log("train_loss", step.loss, batch_size=batch_size)
        for name, value in getattr(getattr(self, "criterion", None), "terms", {}).items():
            self.log(f"loss_{name}", value, batch_size=batch_size)
        every = int(self.trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if every and ((self.trainer.global_step + 1) % every == 0 or self.trainer.is_last_batch):
            online = F.normalize(step.online.float(), dim=-1)
            target = F.normalize(step.target.float(), dim=-1)
            entropy = kde_entropy(online, MONITOR_KAPPA, leave_one_out=len(online) > 1)
            self.log("train_entropy", entropy, batch_size=batch_size)
            if len(online) > 1:
                estimate = knn_entropy(online, min(MONITOR_NEIGHBOUR, len(online) - 1))
                below = estimate - sphere_log_area(online.shape[1])
                self.log("train_nats_below_uniform", below, batch_size=batch_size)
            self.log("train_alignment", (online * target).sum(-1).mean(), batch_size=batch_size)
            # a number of the host: to log it in every step would wait for the device in each
            self.log("lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]


def check_queue(memory_bank_size: int | Sequence[int], projection_dim: int) -> None:
    """Refuse a queue whose rows are not of the embedding's dimension, with a ConfigError."""
    if not isinstance(memory_bank_size, int) and list(memory_bank_size)[1:] != [projection_dim]:
        raise ConfigError(
            f"method.memory_bank_size={list(memory_bank_size)} must be 0 or [n, d] with d the "
            f"projection_dim={projection_dim}."
        )


def check_loss_scale(loss_scale: float) -> None:
    """Refuse a factor of the loss that trains nothing, with a ConfigError."""
    if not 0 < loss_scale < math.inf:
        raise ConfigError(f"method.loss_scale must be above 0 but is {loss_scale}.")


def _group_by_size(views: Sequence[Tensor]) -> list[list[Tensor]]:
    """Consecutive views of one size together, so that each size takes a single pass."""
    groups: list[list[Tensor]] = []
    for view in views:
        if groups and groups[-1][0].shape == view.shape:
            groups[-1].append(view)
        else:
            groups.append([view])
    return groups
