"""Weights of ours: the file that a run leaves, and what its checkpoints say of the backbone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from erssl.files import remove_remains, replacing
from erssl.models.backbones import BackboneOptions
from erssl.models.headers import HEADER


def save_backbone(
    backbone: nn.Module,
    path: Path,
    options: BackboneOptions,
    preprocessing: dict[str, Any] | None = None,
) -> None:
    """Write weights as safetensors with all that is needed to use them in the file's header.

    Args:
        backbone: The trained backbone.
        path: The file to write.
        options: What the backbone was built from.
        preprocessing: ``mean``, ``std``, ``image_size`` and ``interpolation`` of the images.
    """
    from safetensors.torch import save_file

    # Each a copy of its own: safetensors takes no weights that share memory, as CoaT's do.
    state = {n: t.detach().cpu().contiguous().clone() for n, t in backbone.state_dict().items()}
    metadata = {
        "backbone": json.dumps(dataclasses.asdict(options)),
        "preprocessing": json.dumps(preprocessing or {}),
    }
    remove_remains(path)
    with replacing(path) as partial:
        save_file(state, partial, metadata=metadata)


def checkpoint_header(
    backbone: nn.Module, preprocessing: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What a checkpoint keeps beside its state dict, so that its backbone can be read from it.

    Args:
        backbone: The backbone that was trained.
        preprocessing: What its images pass through.

    Returns:
        Keys to add to the checkpoint; none where the architecture is not known.
    """
    architecture = getattr(backbone, "architecture", None)
    if not isinstance(architecture, BackboneOptions):
        return {}
    options = dataclasses.asdict(architecture)
    return {HEADER: {"backbone": options, "preprocessing": dict(preprocessing)}}
