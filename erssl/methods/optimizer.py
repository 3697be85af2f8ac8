"""Optimisers and schedules of the papers, from lightly's and torch's parts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from lightly.models.utils import get_weight_decay_parameters
from lightly.utils.scheduler import CosineWarmupScheduler
from pytorch_lightning import Trainer
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn
from torch.optim import Optimizer

from erssl.errors import ConfigError, ErsslWarning, counted
from erssl.methods.lars import LARS

OptimizerName = Literal["lars", "sgd", "adamw", "muon"]


@dataclass(frozen=True)
class OptimizerOptions:
    """Optimiser and learning-rate schedule; a method's own is in its recipe.

    Attributes:
        name: ``"lars"``, ``"sgd"``, ``"adamw"`` or ``"muon"``, which makes the steps of each weight
            matrix (of a convolution: output channels times all else) orthogonal, and is NAdamW
            for biases, normalisation layers and the online probe (Jordan et al. 2024; timm's).
        base_lr: Learning rate for a batch of 256; it is scaled by batch / 256 (Goyal et al.
            2017).
        bias_base_lr: The same for biases and normalisation layers (Barlow Twins' code); ``None``
            for ``base_lr``.
        momentum: Momentum of LARS, SGD and Muon (Nesterov's); β1 of AdamW and NAdamW.
        beta2: β2 of AdamW and NAdamW.
        weight_decay: Of the weights.
        exclude_norms: Leave biases and normalisation layers out of weight decay and of LARS's
            adaptation (SimCLR, BYOL). ``False``: they are treated as all others (MoCo's and
            SimSiam's code; with LARS, the LARC of SwAV's).
        trust_coefficient: Of LARS.
        warmup_epochs: Epochs of linear warm-up.
        warmup_start_ratio: Where the warm-up begins, relative to the peak (SwAV's code: 1/16).
        final_lr_ratio: Where the cosine ends, relative to the peak.
        layer_decay: Of a vision transformer: what each block's learning rate is of that of the
            block after it; the last normalisation and the heads have the full one, patches and
            positions the least. 1 for none; BEiT (arXiv 2106.08254) and MAE fine-tune with 0.65
            to 0.75.
    """

    name: OptimizerName = "lars"
    base_lr: float = 0.4
    bias_base_lr: float | None = None
    momentum: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 1e-6
    exclude_norms: bool = True
    trust_coefficient: float = 0.001
    warmup_epochs: int = 10
    warmup_start_ratio: float = 0.0
    final_lr_ratio: float = 1e-3
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that no optimiser takes."""
        if self.name not in get_args(OptimizerName):
            raise ConfigError(
                f"optimizer.name={self.name} is unknown; choose one of "
                f"{', '.join(get_args(OptimizerName))}."
            )
        rates = ["base_lr", "trust_coefficient"]
        if self.bias_base_lr is not None:
            rates.append("bias_base_lr")
        for key in rates:
            if not 0 < getattr(self, key) < math.inf:
                raise ConfigError(f"optimizer.{key} must be above 0 but is {getattr(self, key)}.")
        for key in ("weight_decay", "warmup_epochs", "warmup_start_ratio", "final_lr_ratio"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ConfigError(
                    f"optimizer.{key} must be at least 0 but is {getattr(self, key)}."
                )
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(
                f"optimizer.layer_decay must lie in (0, 1] but is {self.layer_decay}."
            )
        if self.name == "lars" and self.weight_decay == 0:
            raise ConfigError(
                "optimizer.weight_decay=0 switches lightly's LARS adaptation off for every layer; "
                "give a small value such as 1e-6, or choose optimizer=sgd."
            )
        for key in ("momentum", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(
                    f"optimizer.{key} must lie in [0, 1) but is {getattr(self, key)}."
                )


def build_optimizer(
    options: OptimizerOptions,
    modules: Iterable[nn.Module],
    online_classifier: nn.Module,
    global_batch_size: int,
    total_steps: int,
    epochs: int,
    constant_lr: Iterable[nn.Module] = (),
    fused: bool = False,
) -> dict[str, Any]:
    """Optimiser and per-step schedule in the form that Lightning's ``configure_optimizers`` gives.

    Args:
        options: What to build.
        modules: Modules whose parameters are trained.
        online_classifier: The online probe, trained without weight decay.
        global_batch_size: Images per step over all devices.
        total_steps: Optimiser steps of the whole run.
        epochs: Epochs of the whole run.
        constant_lr: Those of ``modules`` that keep the peak learning rate (SimSiam's predictor).
        fused: Let AdamW read and write all parameters once; see :func:`can_fuse`.

    Returns:
        Dictionary with ``optimizer`` and ``lr_scheduler``.
    """
    constant = list(constant_lr)
    scheduled = [m for m in modules if not any(m is c for c in constant)]
    lr = options.base_lr * global_batch_size / 256
    groups = _groups(scheduled, options)
    if options.layer_decay != 1:
        groups = _by_layer(groups, scheduled, lr, options.layer_decay)
    groups.append(
        {
            "name": "online_classifier",
            "params": list(online_classifier.parameters()),
            "weight_decay": 0.0,
            **({"use_fallback": True} if options.name == "muon" else {}),
        }
    )
    groups += _groups(constant, options, "_constant_lr") if constant else []
    if options.bias_base_lr is not None:
        for group in groups:
            if group["name"].startswith("no_decay"):
                share = group.get("lr", lr) / options.base_lr  # with the decay of its layer
                group["lr"] = options.bias_base_lr * share
    optimizer: torch.optim.Optimizer
    if options.name == "lars":
        optimizer = LARS(
            groups,
            lr=lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            trust_coefficient=options.trust_coefficient,
        )
    elif options.name == "sgd":
        optimizer = torch.optim.SGD(
            groups, lr=lr, momentum=options.momentum, weight_decay=options.weight_decay
        )
    elif options.name == "muon":
        from timm.optim.muon import Muon  # here: all of timm's optimisers are read with it

        optimizer = Muon(
            groups,
            lr=lr,
            momentum=options.momentum,
            nesterov=True,
            betas=(options.momentum, options.beta2),
            weight_decay=options.weight_decay,
        )
    else:
        optimizer = torch.optim.AdamW(
            groups,
            lr=lr,
            betas=(options.momentum, options.beta2),
            weight_decay=options.weight_decay,
            fused=fused,
        )
    scheduler = CosineWarmupScheduler(
        optimizer,
        warmup_epochs=_warmup_steps(options, total_steps, epochs),
        max_epochs=total_steps,
        warmup_start_value=options.warmup_start_ratio,
        end_value=options.final_lr_ratio,
    )
    for index, group in enumerate(groups):
        if group["name"].endswith("_constant_lr"):
            scheduler.lr_lambdas[index] = lambda step: 1.0
            optimizer.param_groups[index]["lr"] = optimizer.param_groups[index]["initial_lr"]
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def can_fuse(trainer: Trainer, device: torch.device) -> bool:
    """Whether torch's fused AdamW suits a run; it is 3.7 times as quick on a CPU.

    Not with float16's scaler, by which it would divide itself, nor where Lightning clips under
    autocast, which it refuses then. (torch's fused SGD fails where a parameter takes part later.)
    """
    scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    clipped = isinstance(trainer.precision_plugin, MixedPrecision) and trainer.gradient_clip_val
    return device.type in ("cpu", "cuda") and not scaled and not clipped


@contextmanager
def counting_steps(optimizer: Any) -> Iterator[list[int]]:
    """Count the steps that an optimiser takes inside.

    Args:
        optimizer: torch's, or Lightning's around it.

    Yields:
        A list that has an entry for each step.
    """
    steps: list[int] = []
    inner: Optimizer = getattr(optimizer, "optimizer", optimizer)
    hook = inner.register_step_post_hook(lambda *_: steps.append(len(steps)))
    try:
        yield steps
    finally:
        hook.remove()


def _groups(
    modules: list[nn.Module], options: OptimizerOptions, suffix: str = ""
) -> list[dict[str, Any]]:
    """Weights, and biases and normalisation layers, which may be left out of weight decay."""
    params, params_no_weight_decay = get_weight_decay_parameters(modules)
    weight_decay = 0.0 if options.exclude_norms else options.weight_decay
    return [
        {"name": f"decay{suffix}", "params": params},
        {
            "name": f"no_decay{suffix}",
            "params": params_no_weight_decay,
            "weight_decay": weight_decay,
        },
    ]


def _by_layer(
    groups: list[dict[str, Any]], modules: list[nn.Module], lr: float, decay: float
) -> list[dict[str, Any]]:
    """Split groups by the layers of vision transformers, each with a learning rate of its own.

    Layer 0 are patches, tokens and positions, layer i the i-th block, and what comes after the
    last block, or belongs to another module, has the full rate; such groups stand first.
    """
    rates: dict[int, float] = {}
    for module in modules:
        blocks = getattr(module, "blocks", None)
        if blocks is None:
            continue
        last = len(blocks) + 1
        for name, parameter in module.named_parameters():
            rates[id(parameter)] = lr * decay ** (last - _layer(name, last))
    split: dict[tuple[float, str], dict[str, Any]] = {}
    for group in groups:
        for parameter in group["params"]:
            rate = rates.get(id(parameter), lr)
            key = (-rate, group["name"])
            empty = {
                **group,
                "name": f"{group['name']}_lr{rate / lr:.3g}",
                "params": [],
                "lr": rate,
            }
            split.setdefault(key, empty)["params"].append(parameter)
    return [split[key] for key in sorted(split)]


def _layer(name: str, last: int) -> int:
    """Number of a transformer's layer that a parameter belongs to."""
    first, _, rest = name.partition(".")
    if first == "blocks":
        return int(rest.partition(".")[0]) + 1
    return last if first in ("norm", "fc_norm", "head", "attn_pool") else 0


def _warmup_steps(options: OptimizerOptions, total_steps: int, epochs: int) -> int:
    if options.warmup_epochs < epochs:
        return round(total_steps * options.warmup_epochs / epochs)
    steps = total_steps // 10
    rank_zero_warn(
        f"warmup_epochs={options.warmup_epochs} does not fit into {counted(epochs, 'epoch')}; "
        f"the warm-up takes the first tenth, {counted(steps, 'step')}.",
        category=ErsslWarning,
    )
    return steps
