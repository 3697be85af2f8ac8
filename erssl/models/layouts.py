"""How published checkpoints name their backbones: one table of rules, and no guessing beyond it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from erssl.errors import ConfigError, DataError

# The first weights of torchvision's ResNets and timm's transformers.
_STEMS = ("conv1.weight", "patch_embed.proj.weight")
# What a ResNet's children are called in nn.Sequential(*resnet.children()).
_SEQUENTIAL = {"0": "conv1", "1": "bn1", **{f"{i}": f"layer{i - 3}" for i in range(4, 8)}}
_FLAT = ("fc.", "head.", "classifier.", "mask_token", "projection_head.", "prototypes.")
_STATE = ("state_dict",)
_MODEL = ("model",)
# A probe beside a head that is trained without labels; a supervised file has no such head.
_SOLO = (("classifier.",), ("projector.", "momentum_", "prototypes", "head.", "decoder"))
_VISSL = ("classy_state_dict", "base_model", "model", "trunk")


@dataclass(frozen=True)
class Layout:
    """A rule: where the backbone of a checkpoint is, and what its names begin with.

    Attributes:
        name: The project whose files look like this.
        place: Keys that lead to the state dict in the file; empty where the file is one.
        prefix: What the backbone's names begin with, after ``module.`` and ``_orig_mod.``.
        heads: What names under the prefix begin with that come after the features.
        sequential: Whether names are those of ``nn.Sequential(*resnet.children())``: 0 for the
            first convolution, 1 for its normalisation, 4 to 7 for the stages.
        stems: Names, one of which the first weight must have under the prefix.
        marks: Beginnings, of each group of which some name in the state dict must have one.
        stem_padding: Padding of a 3x3 stem.
        vit_heads: Attention heads of its transformers, where not one for 64 channels.
        interpolation: With which evaluation images are resized.
    """

    name: str
    place: tuple[str, ...]
    prefix: str
    heads: tuple[str, ...] = ("fc.", "head.", "mask_token")
    sequential: bool = False
    stems: tuple[str, ...] = _STEMS
    marks: tuple[tuple[str, ...], ...] = ()
    stem_padding: int = 1
    vit_heads: int | None = None
    interpolation: str = "bilinear"


# In this order: the first rule that holds decides. Where a file holds several branches, the rule
# names the one that its project evaluates.
LAYOUTS: tuple[Layout, ...] = (
    Layout("MoCo", _STATE, "encoder_q."),
    Layout("MoCo v3", _STATE, "base_encoder.", vit_heads=12),  # its ViT-S has 12, timm's 6
    Layout("solo-learn", _STATE, "backbone.", marks=_SOLO, stem_padding=2),
    Layout("solo-learn", _STATE, "encoder.", marks=_SOLO, stem_padding=2),  # before 2022
    Layout("erssl, lightly, mmselfsup", _STATE, "backbone."),
    Layout("lightly, Sequential", _STATE, "backbone.", sequential=True),
    Layout("lightly, timm", _STATE, "backbone.vit."),  # its MaskedVisionTransformerTIMM
    Layout("lightly, timm", _STATE, "teacher_backbone.vit."),  # its iBOT, which has no other
    Layout("lightly zoo", _STATE, "model.backbone.", stems=("0.running_mean",)),
    Layout("lightly zoo", _STATE, "model.features.", stems=("0.running_mean",)),
    Layout("SimSiam", _STATE, "encoder."),
    Layout("MVEB", _MODEL, "encoder.", sequential=True),
    Layout("MVEB", _STATE, "encoder.", sequential=True),
    Layout("MVEB", (), "encoder.", sequential=True),
    Layout("DINO", ("teacher",), "backbone.", interpolation="bicubic"),
    Layout("DINO student", ("student",), "backbone.", interpolation="bicubic"),
    Layout("Barlow Twins, VICReg", _MODEL, "backbone."),
    Layout("PyContrast", _MODEL, "encoder."),
    Layout("BYOL", _MODEL, "online_network.encoder.", sequential=True),  # yaox12/BYOL-PyTorch
    Layout("BYOL", (), "online_encoder.net."),  # lucidrains/byol-pytorch
    Layout("BYOL", _STATE, "learner.online_encoder.net."),  # its Lightning example
    Layout("vissl", _VISSL, "_feature_blocks."),
    Layout("vissl", _VISSL, "base_model._feature_blocks."),
    Layout("MAE", _MODEL, "", marks=(("decoder_",),), heads=("decoder_", "mask_token")),
    Layout("timm, weight average", ("state_dict_ema",), "", heads=_FLAT),  # what timm evaluates
    Layout("torchvision, timm, SwAV", (), "", heads=_FLAT),
    Layout("torchvision, timm, SwAV", _MODEL, "", heads=_FLAT),
    Layout("torchvision, timm, SwAV", _STATE, "", heads=_FLAT),
)


@dataclass(frozen=True)
class Found:
    """The backbone of a checkpoint.

    Attributes:
        layout: The rule that held.
        state: Weights under torchvision's or timm's names.
        heads: How many weights under the prefix belong to heads.
        name: Whose file it is.
    """

    layout: Layout
    state: dict[str, Tensor]
    heads: int
    name: str


def find_backbone(
    content: Mapping[str, Any], layout: str | None = None, stem: str | None = None
) -> Found | None:
    """Find the backbone in a checkpoint by the first rule of :data:`LAYOUTS` that holds.

    A rule holds where its place exists, its mark is there, and the backbone's first weight stands
    under its prefix.

    Args:
        content: What the file holds.
        layout: Name of the rules to try; ``None`` for all.
        stem: Name of the backbone's first weight where it is known; ``None`` for the rules' own.

    Returns:
        The backbone, or ``None`` where no rule holds.

    Raises:
        ConfigError: If there is no rule of that name.
        DataError: If a state dict has a name twice.
    """
    for rule in _rules(layout):
        named = _state_dict(content, rule.place)
        if not all(any(name.startswith(mark) for name in named) for mark in rule.marks):
            continue
        state = _under(named, rule.prefix)
        if rule.sequential:
            state = _named_sequential(state) if "0.weight" in state else {}
        if any(name in state for name in ([stem] if stem is not None else rule.stems)):
            own = {n: t for n, t in state.items() if not n.startswith(rule.heads)}
            return Found(rule, _timm_registers(own), len(state) - len(own), rule.name)
    return None


def named_tensors(content: Mapping[str, Any], layout: str) -> dict[str, Tensor]:
    """All tensors beside the backbone that a rule of this name finds, without wrappers' names."""
    found = [named for rule in _rules(layout) if (named := _state_dict(content, rule.place))]
    return found[0] if found else {}


def _rules(layout: str | None) -> list[Layout]:
    rules = [rule for rule in LAYOUTS if layout in (None, rule.name)]
    if not rules:
        names = ", ".join(repr(name) for name in dict.fromkeys(rule.name for rule in LAYOUTS))
        raise ConfigError(f"layout={layout} is unknown; choose one of: {names}.")
    return rules


def _under(named: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in named.items() if n.startswith(prefix)}


def _state_dict(content: Mapping[str, Any], place: Sequence[str]) -> dict[str, Tensor]:
    """Tensors at a place, without wrappers' names; empty where the place does not exist."""
    node: Any = content
    for key in place:
        node = node.get(key) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        return {}
    tensors = {n: t for n, t in node.items() if isinstance(n, str) and isinstance(t, Tensor)}
    named = {_unwrapped(n): t for n, t in tensors.items()}
    if len(named) < len(tensors):
        raise DataError(
            f"The state dict has {len(tensors) - len(named)} names twice, with and without a "
            "wrapper such as module.; save one of the two."
        )
    return named


def _unwrapped(name: str) -> str:
    # put there by DistributedDataParallel and by torch.compile
    return name.removeprefix("module.").replace("_orig_mod.", "")


def _named_sequential(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names for those of a ResNet's children in a Sequential."""
    named = {}
    for name, tensor in state.items():
        number, _, rest = name.partition(".")
        named[f"{_SEQUENTIAL.get(number, number)}.{rest}"] = tensor
    return named


def _timm_registers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's names for DINOv2's registers, and its class token, which takes its own position."""
    state = dict(state)
    if "register_tokens" in state and "cls_token" in state:
        state["reg_token"] = state.pop("register_tokens")
        positions = state["pos_embed"]
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        state["pos_embed"] = positions[:, 1:]
    return state
