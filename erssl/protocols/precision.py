"""``trainer.precision=auto``: half precision where the device is quick at it and learning keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer
from torch import nn

from erssl.methods import MultiViewMethod
from erssl.models.half_precision import compare_precisions, faulty_in_half
from erssl.run.directory import CONFIG
from erssl.run.launch import started_processes
from erssl.settings.pretrain import stored_config
from erssl.settings.pretrain_options import PretrainSettings
from erssl.settings.trainer import AUTO

_HALF, _WHOLE = "bf16-mixed", "32-true"
_LEAST_COSINE = 0.9  # of all gradients; 0.96 to 1.00 were measured where bfloat16 is right
_MOST_TIME = 0.9  # of float32's; what gains less is not worth other numbers


class Precision(NamedTuple):
    """What a run computes in.

    Attributes:
        precision: Lightning's name.
        channels_last: Whether images and weights lie channels-last.
        why: What the header says of it; empty where it was the user's choice.
    """

    precision: str
    channels_last: bool
    why: str


def with_precision(
    settings: PretrainSettings,
    config: Mapping[str, Any],
    sources: Mapping[str, str],
    probe: Trainer,
    path: Path,
    method: MultiViewMethod,
) -> tuple[PretrainSettings, dict[str, Any], dict[str, str], str]:
    """Put the precision that is chosen in the place of ``auto``.

    Args:
        settings: The run.
        config: Its resolved config.
        sources: Where its values come from, by dotted key.
        probe: A trainer with the run's devices.
        path: The run directory.
        method: What is trained, which is given the layout that is chosen.

    Returns:
        All three with the precision, and what is to be said of it; empty for nothing.
    """
    asked = settings.trainer.get("precision")
    device = probe.strategy.root_device
    if asked != AUTO:
        return settings, dict(config), dict(sources), _advice(settings, device, method.backbone)
    own_layout = sources.get("channels_last", "default") != "override"
    if probe.is_global_zero or started_processes() > 1:
        chosen = _choose(settings, device, method.backbone, own_layout)
    else:  # a process that the first one has started, after it had chosen
        kept = stored_config(path / CONFIG)
        chosen = Precision(str(kept["trainer"]["precision"]), bool(kept["channels_last"]), "")
    trainer = {**settings.trainer, "precision": chosen.precision}
    settings = dataclasses.replace(settings, trainer=trainer, channels_last=chosen.channels_last)
    if chosen.channels_last:
        method.use_channels_last()
    told = {"trainer.precision": f"auto, since {chosen.why}"}
    if chosen.channels_last != config["channels_last"]:
        told["channels_last"] = "trainer.precision=auto"
    changed = {"trainer": trainer, "channels_last": chosen.channels_last}
    return settings, {**config, **changed}, {**sources, **told}, f"auto: {chosen.why}"


def may_be_half(settings: PretrainSettings) -> bool:
    """Whether a run computes in bfloat16, or is to find out whether it should."""
    asked = str(settings.trainer.get("precision"))
    return asked == AUTO or asked.startswith("bf16")


def quick_half(device: torch.device) -> tuple[bool, str]:
    """Whether a device is quick at bfloat16, and why it is thought to be or not to be."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return True, "the GPU computes in bfloat16"
        return False, "the GPU does not compute in bfloat16"
    if device.type != "cpu":
        return False, f"bfloat16 was not tried on {device.type}"
    has_kernels = torch.backends.mkldnn.is_available() and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    for name, has in (
        ("AMX", torch.cpu._is_amx_tile_supported),
        ("AVX512-BF16", torch.cpu._is_avx512_bf16_supported),
    ):
        if has_kernels and has():
            return True, f"the processor has {name}"
    return False, "the processor has neither AVX512-BF16 nor AMX"


def _choose(
    settings: PretrainSettings, device: torch.device, backbone: nn.Module, own_layout: bool
) -> Precision:
    layout = settings.channels_last
    quick, why = quick_half(device)
    if not quick or device.type != "cpu":
        return Precision(_HALF if quick else _WHOLE, layout, why)
    if started_processes() > 1:
        # what each process finds out by itself may differ
        return Precision(_WHOLE, layout, "processes that were started together do not try bfloat16")
    last = own_layout or layout
    tried = compare_precisions(
        backbone,
        _sides(settings),
        settings.data.channels,
        last,
        settings.batch_size,
    )
    takes = f"a pass of the backbone takes {tried.time_ratio:.2f} of its time in float32"
    if tried.faulty:
        why += f", but gradients of {_listed(tried.faulty)} come out wrong in bfloat16"
    elif not tried.cosine >= _LEAST_COSINE:
        why += f", but gradients in bfloat16 and float32 have a cosine of {tried.cosine:.2f} only"
    elif tried.time_ratio > _MOST_TIME:
        why += f", but {takes}"
    else:
        why += f", and {takes}, with a cosine of {tried.cosine:.3f} between gradients"
        return Precision(_HALF, last, why)
    return Precision(_WHOLE, layout, why)


def _advice(settings: PretrainSettings, device: torch.device, backbone: nn.Module) -> str:
    """What is to be said of a precision that was not left to choose."""
    precision = str(settings.trainer.get("precision"))
    if device.type != "cpu":
        return ""
    if precision.startswith("bf16"):
        faulty = faulty_in_half(backbone, _sides(settings), settings.data.channels)
        return (
            f"but gradients of {_listed(faulty)} come out wrong in bfloat16 on this processor; "
            "use trainer.precision=32-true"
            if faulty
            else ""
        )
    quick, why = quick_half(device)
    return f"{why}: trainer.precision=auto may be quicker" if quick and precision == _WHOLE else ""


def _sides(settings: PretrainSettings) -> list[int]:
    """Sides of the views that a step sees, each once."""
    return settings.data.views.every_side(settings.data.image_size)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return f"the convolution {names[0]}{more}"
