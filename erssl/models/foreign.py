"""Backbone and head of somebody else's checkpoint, by the prefixes of their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from torch import Tensor, nn

from erssl.errors import DataError
from erssl.models.backbones import BackboneOptions, build_backbone

Activation = Literal["relu", "gelu"]
_CLASSIFIERS = ("fc.", "head.", "classifier.")  # after the features, of no account here


def load_branch(
    path: str | Path,
    options: BackboneOptions,
    backbone_prefix: str = "backbone.",
    head_prefix: str | None = "projection_head.",
    activation: Activation = "relu",
) -> tuple[nn.Module, nn.Module]:
    """Read one branch, backbone and head, of a checkpoint such as lightly's benchmarks write.

    The head is an MLP that its weights describe: linear layers and batch normalisations in the
    order of their names, with the activation before every linear layer but the first.

    Args:
        path: A ``.ckpt`` or ``.pth`` file with a state dict, or with one under ``state_dict``.
        options: The backbone; all its weights must be there.
        backbone_prefix: What the names of its weights begin with.
        head_prefix: The same of the head; ``None`` for none.
        activation: Of the head's hidden layers.

    Returns:
        Backbone and head in eval mode.

    Raises:
        DataError: If the file cannot be read safely, or backbone or head do not fit.
    """
    state = _read(Path(path))
    backbone = build_backbone(options)
    own = _under(state, backbone_prefix)
    expected = {name: t.shape for name, t in backbone.state_dict().items()}
    matched = {n: t for n, t in own.items() if expected.get(n) == t.shape}
    missing = [n for n in expected if n not in matched and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in own if n not in expected and not n.startswith(_CLASSIFIERS)]
    if missing or unexpected:
        raise DataError(
            f"{path} does not hold the backbone {options.name} under {backbone_prefix!r}: "
            f"{len(matched)} weights match, {len(missing)} are missing and {len(unexpected)} "
            f"unexpected, such as {(missing + unexpected)[0]}. Set backbone=<what it is> and "
            "backbone_prefix=<what its names begin with>."
        )
    backbone.load_state_dict(matched, strict=False)
    if head_prefix is None:
        return backbone.eval(), nn.Identity()
    layers = _under(state, head_prefix)
    if not layers:
        raise DataError(
            f"{path} holds no head under {head_prefix!r}; set head_prefix=<what its names begin "
            "with>, or on=features for the backbone alone."
        )
    head = build_head(layers, activation).eval()
    width = next((m.in_features for m in head.modules() if isinstance(m, nn.Linear)), None)
    if width != backbone.feature_dim:
        raise DataError(
            f"The head under {head_prefix!r} takes {width} features but {options.name} gives "
            f"{backbone.feature_dim}; set head_prefix to the head that follows the backbone."
        )
    return backbone.eval(), head


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def build_head(state: Mapping[str, Tensor], activation: Activation = "relu") -> nn.Module:
    """The MLP that a state dict of linear layers and batch normalisations describes.

    Raises:
        DataError: If a layer is neither.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        layer, _, parameter = name.rpartition(".")
        layers.setdefault(layer, {})[parameter] = tensor
    modules: list[nn.Module] = []
    for name, weights in layers.items():
        made = _layer(name, weights)
        if isinstance(made, nn.Linear) and modules:
            modules.append(nn.ReLU() if activation == "relu" else nn.GELU())
        made.load_state_dict(weights)
        modules.append(made)
    return nn.Sequential(*modules) if modules else nn.Identity()


def _layer(name: str, weights: Mapping[str, Tensor]) -> nn.Module:
    weight = weights.get("weight")
    if "running_mean" in weights:
        return nn.BatchNorm1d(len(weights["running_mean"]), affine=weight is not None)
    if weight is None or weight.ndim != 2:
        raise DataError(
            f"The head's layer {name} is neither linear nor a batch normalisation; set head_prefix "
            "to what its MLP begins with, or read it with erssl.callbacks.ERLens(embed=...)."
        )
    return nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in weights)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"There is no checkpoint at {path}.")
    try:
        content = torch.load(path, "cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise DataError(f"{path} cannot be read safely ({reason}).") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    named = state.items() if isinstance(state, dict) else ()
    tensors = {n: t for n, t in named if isinstance(n, str) and isinstance(t, Tensor)}
    if not tensors:
        raise DataError(f"{path} holds no state dict.")
    return tensors
