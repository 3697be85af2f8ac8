"""Backbone and head of somebody else's checkpoint, for the lens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from erssl.errors import DataError
from erssl.models.backbones import BackboneOptions
from erssl.models.loading import load_backbone
from erssl.models.state_dicts import at, named_tensors, under
from erssl.models.weights_files import read_checkpoint
from erssl.models.zoo import zoo_file
from erssl.paths import user_path

Activation = Literal["relu", "gelu"]


def load_branch(
    path: str | Path,
    arch: str | BackboneOptions | None = None,
    head_prefix: str | None = "projection_head.",
    activation: Activation = "relu",
    layout: str | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Read one branch, backbone and head, of a checkpoint such as lightly's benchmarks write.

    The backbone is found as :func:`erssl.load_backbone` finds it. The head is an MLP that its
    weights describe: linear layers and batch normalisations in the order of their names, with the
    activation before every linear layer but the first.

    Args:
        path: A checkpoint of any layout that ``load_backbone`` reads, or ``"zoo:<name>"``.
        arch: The backbone; ``None`` infers it.
        head_prefix: What the names of the head begin with, in the state dict that holds the
            backbone; ``None`` for none.
        activation: Of the head's hidden layers.
        layout: Name of the only layout to try.

    Returns:
        Backbone and head in eval mode.

    Raises:
        DataError: If the file cannot be read safely, or backbone or head do not fit.
    """
    backbone = load_backbone(path, arch, layout=layout)
    if head_prefix is None:
        return backbone, nn.Identity()
    if str(path).startswith("zoo:"):
        path = zoo_file(str(path).removeprefix("zoo:"))[0]
    content, _ = read_checkpoint(user_path(path))
    report: Any = backbone.report
    layers = under(named_tensors(at(content, report.place)), head_prefix)
    if not layers:
        raise DataError(
            f"{path} holds no head under {head_prefix!r}; set head_prefix=<what its names begin "
            "with>, or on=features for the backbone alone."
        )
    head = build_head(layers, activation).eval()
    width = next((m.in_features for m in head.modules() if isinstance(m, nn.Linear)), None)
    if width != backbone.feature_dim:
        raise DataError(
            f"The head under {head_prefix!r} takes {width} features but the backbone gives "
            f"{backbone.feature_dim}; set head_prefix to the head that follows the backbone."
        )
    return backbone, head


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
