"""A linear classifier on a backbone, frozen or trained with it: linear, semi-supervised, fine-tune.

One module for the three: they differ in what is trained, at which rates, and on which images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from erssl.data.checks import check_choice
from erssl.data.draws import draw_on_from
from erssl.errors import ConfigError
from erssl.evaluation.accuracies import classification_metrics
from erssl.models.saving import checkpoint_header


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """How a classifier is trained; the defaults are MVEB's linear evaluation (§6.1, after SimSiam).

    Attributes:
        epochs: Passes over the training images (MVEB: 50; SimSiam: 90).
        batch_size: Images per step over all devices; no more than there are are taken.
        head_lr: Learning rate of the linear layer (SimSiam's code: 0.1 per 256 images).
        backbone_lr: Learning rate of the backbone; ``None`` keeps it frozen.
        lr_per_256: Whether the rates are for 256 images and grow with the batch.
        optimizer: SGD with momentum, or the same with LARS's adaptation (LARC; SimSiam and MVEB).
        momentum: Of SGD.
        weight_decay: Of all trained parameters.
        schedule: How often the cosine moves: once an ``epoch``, whose end would be its last value
            (torch's ``CosineAnnealingLR``), or every ``step``, the last of which has it (lightly).
        final_lr: Share of the learning rate at the end of the cosine (lightly: 0.001).
        head_init: ``normal``: weights N(0, 0.01) and bias 0; ``torch``: as ``nn.Linear`` comes.
        crop_scale: Area of the random crops that are trained on (torchvision: 0.08 to 1).
        flip: Whether they are flipped in half of the cases.
    """

    epochs: int = 50
    batch_size: int = 4096
    head_lr: float = 0.1
    backbone_lr: float | None = None
    lr_per_256: bool = True
    optimizer: Literal["sgd", "lars"] = "lars"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["epoch", "step"] = "epoch"
    final_lr: float = 0.0
    head_init: Literal["normal", "torch"] = "normal"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True

    def __post_init__(self) -> None:
        """Refuse values that train nothing."""
        for key, least in (("epochs", 1), ("batch_size", 1)):
            if getattr(self, key) < least:
                raise ConfigError(f"{key} must be at least {least} but is {getattr(self, key)}.")
        for key in ("optimizer", "schedule", "head_init"):
            check_choice(key, getattr(self, key), get_args(get_type_hints(ClassifierOptions)[key]))
        rates = {"head_lr": self.head_lr, "backbone_lr": self.backbone_lr}
        for key, rate in rates.items():
            if rate is not None and not 0 <= rate < math.inf:
                raise ConfigError(f"{key} must be a number of at least 0 but is {rate}.")
        decay_fits = 0 <= self.weight_decay < math.inf
        if not (0 <= self.momentum < 1 and decay_fits and 0 <= self.final_lr <= 1):
            raise ConfigError(
                "momentum must lie in [0, 1), weight_decay must be at least 0 and final_lr lie in "
                f"[0, 1] but they are {self.momentum}, {self.weight_decay} and {self.final_lr}."
            )
        scale = tuple(self.crop_scale)
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ConfigError(
                "crop_scale must be two numbers with 0 < low <= high <= 1 but is "
                f"[{', '.join(map(str, scale))}]."
            )


def make_head(feature_dim: int, num_classes: int, init: str = "normal") -> nn.Linear:
    """The linear layer, N(0, 0.01) with bias 0 (SimSiam's main_lincls.py), or as torch makes it."""
    head = nn.Linear(feature_dim, num_classes)
    if init == "normal":
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
    return head


def make_optimizer(
    options: ClassifierOptions, head: nn.Module, backbone: nn.Module | None, batch_size: int
) -> Optimizer:
    """SGD or LARS with a group for the head and one for a backbone that is trained.

    LARS is timm's with ``always_adapt``: lightly's leaves parameters without weight decay alone,
    which all of these protocols have, and so would be plain SGD.
    """
    scale = batch_size / 256 if options.lr_per_256 else 1.0
    groups: list[dict[str, Any]] = [
        {"params": list(head.parameters()), "lr": options.head_lr * scale}
    ]
    trained = list(backbone.parameters()) if backbone is not None else []
    if trained and options.backbone_lr is not None:
        groups.append({"params": trained, "lr": options.backbone_lr * scale})
    settings: dict[str, Any] = {
        "momentum": options.momentum,
        "weight_decay": options.weight_decay,
    }
    if options.optimizer == "lars":
        return Lars(groups, lr=0.0, trust_coeff=0.001, always_adapt=True, **settings)
    return SGD(groups, lr=0.0, **settings)


def cosine(moves: int, done: int, final: float = 0.0) -> float:
    """Share of the learning rate after ``done`` of ``moves``: from 1 down towards ``final``."""
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(done / moves, 1.0)))


class ClassifierTraining(LightningModule):
    """Trains a linear layer on a frozen backbone, or both.

    A frozen backbone stays in eval mode and takes no gradient: its weights and running statistics
    are the same bits before and after.

    Attributes:
        history: Metrics on the validation images after each epoch.
        scores: Logits (N_val, C) of the last validation, in the loader's order, on the CPU.
        validated_step: The optimiser step after which that was.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        options: ClassifierOptions,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        """Put a new linear layer on a backbone.

        Args:
            backbone: Module giving features (N, feature_dim).
            num_classes: Number of classes C.
            options: How it is trained.
            batch_size: Images per step of the optimiser over all devices, which the rates are
                for.
            seed: Of what the backbone draws while it is trained, such as dropout.
        """
        super().__init__()
        feature_dim: Any = backbone.feature_dim
        self.backbone = backbone
        self.head = make_head(feature_dim, num_classes, options.head_init)
        self.options = options
        self.batch_size = batch_size
        self.seed = seed
        self.frozen = options.backbone_lr is None
        if self.frozen:
            backbone.requires_grad_(False)
        self.history: list[dict[str, float]] = []
        self.scores = torch.empty(0)
        self.labels = torch.empty(0, dtype=torch.long)
        self.validated_step = -1
        self._batches: list[tuple[Tensor, Tensor]] = []

    def train(self, mode: bool = True) -> ClassifierTraining:
        """Set the mode, but leave a frozen backbone in eval mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def on_train_start(self) -> None:
        """Wake it also where a training goes on inside an epoch, whose start was before."""
        self.train()

    def on_train_epoch_start(self) -> None:
        """Wake a trained backbone, which was read in eval mode: Lightning leaves modes alone."""
        self.train()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let each step draw from its own seed: a resumed training goes on as it would have."""
        draw_on_from(self.seed, self.current_epoch, batch_idx, self.global_rank)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C) of images (N, 3, H, W)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.backbone(images).flatten(start_dim=1)
        logits: Tensor = self.head(features)
        return logits

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        """Cross-entropy of a batch (images, labels, …)."""
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, batch_size=len(batch[1]))
        return loss

    def validation_step(self, batch: Sequence[Any], batch_idx: int) -> None:
        """Keep the logits of a batch."""
        self._batches.append((self(batch[0]).float().cpu(), batch[1].cpu()))

    def on_validation_epoch_end(self) -> None:
        """Measure all validation images at once, so that no batch counts more than another."""
        scores, labels = (torch.cat(parts) for parts in zip(*self._batches, strict=True))
        self._batches.clear()
        if self.trainer.sanity_checking:
            return
        self.scores, self.labels = scores, labels
        self.validated_step = self.trainer.global_step
        metrics = classification_metrics(scores, labels)
        self.history.append({"epoch": float(self.current_epoch), **metrics})
        self.log_dict({f"val_{name}": value for name, value in metrics.items()})

    def configure_optimizers(self) -> Any:
        """SGD or LARS, and a cosine that moves once an epoch or every step."""
        options = self.options
        backbone = None if self.frozen else self.backbone
        optimizer = make_optimizer(options, self.head, backbone, self.batch_size)
        each_epoch = options.schedule == "epoch"
        steps = int(self.trainer.estimated_stepping_batches)
        moves = options.epochs if each_epoch else max(1, steps - 1)
        scheduler = LambdaLR(optimizer, lambda done: cosine(moves, done, options.final_lr))
        return [optimizer], [{"scheduler": scheduler, "interval": options.schedule}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history, for a resumed run's best epoch, and what the backbone is."""
        checkpoint["history"] = self.history
        preprocessing: Any = getattr(self.backbone, "preprocessing", {})
        checkpoint |= checkpoint_header(self.backbone, preprocessing)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the history of the run that is resumed."""
        self.history = [dict(row) for row in checkpoint["history"]]


def best_epoch(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The first epoch with the highest top-1 on the validation images."""
    return max(history, key=lambda row: (row["top1"], -row["epoch"]))
