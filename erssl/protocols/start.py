"""Weights that a run starts from: any checkpoint's backbone, and the heads of a run of ours."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from erssl.errors import DataError, RunError
from erssl.methods import MultiViewMethod
from erssl.models.headers import HEADER
from erssl.models.layouts import is_head
from erssl.models.state_dicts import named_tensors, under
from erssl.models.weights_files import check_finite, read_checkpoint
from erssl.paths import user_path
from erssl.protocols.subject import run_of
from erssl.run.checkpoint_files import newest_whole
from erssl.run.directory import CONFIG, LAST_CHECKPOINT
from erssl.settings.pretrain import stored_config
from erssl.settings.pretrain_options import PretrainSettings
from erssl.settings.start import read_start


def start_of(settings: PretrainSettings, resumed: bool) -> nn.Module | None:
    """The backbone that a run starts from, its weights read.

    Args:
        settings: The run.
        resumed: Whether it goes on from a checkpoint of its own; it then needs the weights that it
            began with for their accuracy only, and goes on without where they are gone.

    Returns:
        The backbone in train mode; ``None`` for random weights.

    Raises:
        DataError: If the weights of a run that begins cannot be read, or are another network's
            than when the run was set up.
    """
    if not settings.checkpoint:
        return None
    try:
        start = read_start(settings, settings.data.channels)
    except DataError:
        if resumed:
            return None
        raise
    if start.architecture != settings.backbone:
        raise DataError(
            f"checkpoint={settings.checkpoint} holds {start.architecture} but the run was set up "
            f"with {settings.backbone}; start a new run."
        )
    return start.train()


def load_heads(method: MultiViewMethod, settings: PretrainSettings) -> list[str]:
    """Give a method the heads of the run that it starts from, where they fit it whole.

    Queues, centres and the online probe begin anew. Target branches become copies of the online
    ones, as in every run.

    Args:
        method: Built with the backbone of the same run.
        settings: The run.

    Returns:
        Names of the modules that were read; none where the file is no run of ours.
    """
    state = _state(settings)
    loaded = []
    for name, module in method.named_children():
        if name in ("backbone", "criterion", "online_classifier") or name.startswith("target_"):
            continue
        own, theirs = module.state_dict(), under(state, f"{name}.")
        if own and {n: t.shape for n, t in own.items()} == {n: t.shape for n, t in theirs.items()}:
            check_finite(str(settings.checkpoint), theirs)
            module.load_state_dict(theirs)
            loaded.append(name)
    if loaded:
        method.reset_target()
    return loaded


def method_of_start(settings: PretrainSettings) -> str | None:
    """The method of the run of ours that a run starts from; ``None`` where it is no such run."""
    run = run_of(settings.checkpoint) if settings.checkpoint else None
    if run is not None:
        with contextlib.suppress(RunError):
            return str(stored_config(run / CONFIG)["method"]["name"])
    return None


def told(settings: PretrainSettings, backbone: nn.Module, heads: list[str]) -> str:
    """What the run starts from, in a sentence."""
    report: Any = backbone.report
    state = _state(settings)
    taken = tuple(f"{name}." for name in heads)
    left_out = sum(is_head(name) and not name.startswith(taken) for name in state)
    report = dataclasses.replace(report, heads=left_out if state else report.heads)
    of_heads = f"; {', '.join(heads)} too" if heads else "; heads are random"
    if state and not heads:
        other = method_of_start(settings)
        same = other in (None, settings.method["name"])
        of_heads += (
            ", since theirs have other shapes"
            if same
            else f", since theirs are of another method, {other}"
        )
    frozen = settings.freeze_epochs
    frozen_for = f"; the backbone is frozen for {frozen} of {settings.epochs} epochs"
    return f"Starts from {settings.checkpoint}: {report}{of_heads}{frozen_for if frozen else ''}."


def _state(settings: PretrainSettings) -> Mapping[str, Tensor]:
    """All weights of the run that the start belongs to; empty where it is none of ours."""
    if settings.prefix or settings.weights:
        return {}
    path = user_path(str(settings.checkpoint))
    file: Path | None = path if path.is_file() and path.suffix == ".ckpt" else None
    if path.is_dir() and (path / LAST_CHECKPOINT).is_file():
        whole = newest_whole(path / LAST_CHECKPOINT)
        file = None if whole is None else whole.path
    if file is None:
        return {}
    content, _ = read_checkpoint(file)
    return named_tensors(content.get("state_dict")) if HEADER in content else {}
