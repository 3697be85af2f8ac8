"""How published checkpoints name their backbones: one table of rules, and no guessing beyond it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from erssl.errors import ConfigError
from erssl.models import transformers_names as transformers
from erssl.models.state_dicts import (
    at,
    named_tensors,
    place_name,
    places,
    under,
)

# The first weights of torchvision's ResNets and timm's transformers.
_STEMS = ("conv1.weight", "patch_embed.proj.weight")
# What a ResNet's children are called in nn.Sequential(*resnet.children()).
_SEQUENTIAL = {"0": "conv1", "1": "bn1", **{f"{i}": f"layer{i - 3}" for i in range(4, 8)}}
_FLAT = ("fc.", "head.", "classifier.", "mask_token", "projection_head.", "prototypes.")
# Modules beside the backbone in a method of ours or lightly's.
_BESIDE = (
    "projection_head.",
    "prediction_head.",
    "prototypes.",
    "classifiers.",
    "decoder.",
    "online_classifier.",
)
_STATE = ("state_dict",)
_MODEL = ("model",)
# A probe beside a head that is trained without labels; a supervised file has no such head.
_SOLO = (("classifier.",), ("projector.", "momentum_", "prototypes", "head.", "decoder"))
_VISSL = ("classy_state_dict", "base_model", "model", "trunk")
# Where else people put a state dict: DeepSpeed, and training scripts of their own.
_CONTAINERS = (
    (),
    _STATE,
    _MODEL,
    ("module",),
    ("net",),
    ("network",),
    ("model_state_dict",),
    ("model_state",),
    ("weights",),
    ("params",),
)


@dataclass(frozen=True)
class Layout:
    """A rule: where the backbone of a checkpoint is, and what its names begin with.

    Attributes:
        name: The project whose files look like this.
        place: Keys that lead to the state dict in the file; empty where the file is one.
        prefix: What the backbone's names begin with, without what wrappers put there.
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

    @property
    def published(self) -> bool:
        """Whether such files are those that libraries publish, or say nothing of a project."""
        return self.name.startswith(("torchvision", "timm", "prefix="))


_AVERAGES = ("timm, weight average", "torchvision, DeiT, weight average")

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
    Layout(
        "MAE",
        _MODEL,
        "",
        marks=(("decoder_",),),
        heads=("decoder_", "mask_token"),
        interpolation="bicubic",
    ),
    # The average wherever there is one beside the trained weights, as timm reads such files, and
    # torchvision's references evaluate; DeiT and ConvNeXt write theirs in the second place too.
    Layout(_AVERAGES[0], ("state_dict_ema",), "", heads=_FLAT),
    Layout(_AVERAGES[1], ("model_ema",), "", heads=_FLAT),
    Layout("torchvision, timm, SwAV", (), "", heads=_FLAT),
    Layout("torchvision, timm, SwAV", _MODEL, "", heads=_FLAT),
    Layout("torchvision, timm, SwAV", _STATE, "", heads=_FLAT),
    *(Layout("transformers", (), prefix, heads=_FLAT) for prefix in transformers.PREFIXES[1:]),
)


def is_head(name: str) -> bool:
    """Whether a weight of a method of ours or lightly's belongs to what follows its backbone.

    Args:
        name: In the state dict, such as ``projection_head.layers.0.weight``. Targets are copies of
            what is counted and are none.
    """
    return name.startswith(_BESIDE)


@dataclass(frozen=True)
class BackboneWeights:
    """The backbone of a checkpoint.

    Attributes:
        layout: The rule that held.
        place: Keys that lead to its state dict in the file.
        named: The whole state dict, without wrappers' names.
        state: Weights under the prefix, by torchvision's or timm's names; heads are among them.
        name: Whose file it is.
        heads: How many weights were left out as heads.
    """

    layout: Layout
    place: tuple[str, ...]
    named: dict[str, Tensor]
    state: dict[str, Tensor]
    name: str
    heads: int = 0

    def without_heads(
        self, known: Collection[str] = (), more: Collection[str] = ()
    ) -> BackboneWeights:
        """The backbone alone.

        Args:
            known: Names of the network, where it is known; they are no heads, whatever they begin
                with (ConvNeXt's last normalisation is ``head.norm``).
            more: Further names of heads.
        """
        own = {
            n: t
            for n, t in self.state.items()
            if n in known or not (n.startswith(self.layout.heads) or n in more)
        }
        return dataclasses.replace(self, state=own, heads=len(self.state) - len(own) + self.heads)


def find_backbone(
    content: Mapping[str, Any],
    layout: str | None = None,
    stem: str | None = None,
    prefix: str | None = None,
    weights: str | None = None,
) -> BackboneWeights | None:
    """Find the backbone in a checkpoint by the first rule of :data:`LAYOUTS` that holds.

    A rule holds where its place exists, its mark is there, and the backbone's first weight stands
    under its prefix. Where none holds, each is tried in the usual containers of a state dict.

    Args:
        content: What the file holds.
        layout: Name of the rules to try; ``None`` for all.
        stem: Name of the backbone's first weight where it is known; ``None`` for the rules' own.
        prefix: What the backbone's names begin with, in place of the rules.
        weights: The container to take, its keys joined by dots; ``None`` for the rules' own.

    Returns:
        The backbone, or ``None`` where no rule holds.

    Raises:
        ConfigError: If there is no rule or no container of that name.
        DataError: If a state dict has a name twice.
    """
    chosen = None if weights is None else _chosen(content, weights)
    for rule, place in _tried(content, layout, prefix, chosen):
        named = named_tensors(at(content, place))
        if not all(any(name.startswith(mark) for name in named) for mark in rule.marks):
            continue
        state = _plain_names(under(named, rule.prefix), rule.sequential)
        if any(name in state for name in ([stem] if stem is not None else rule.stems)):
            beside = sum(map(is_head, named)) if rule.prefix else 0
            return BackboneWeights(rule, place, named, _timm_registers(state), rule.name, beside)
    return None


def whole_sets(
    content: Mapping[str, Any], wanted: Mapping[str, Tensor]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Places and prefixes in a file under which weights of these names and shapes are complete.

    Args:
        content: What the file holds.
        wanted: Weights by name.
    """
    stem = next(iter(wanted))
    for place in places(content):
        named = named_tensors(at(content, place))
        for prefix in [n.removesuffix(stem) for n in named if f".{n}".endswith(f".{stem}")]:
            each = ((named.get(prefix + name), tensor) for name, tensor in wanted.items())
            if all(other is not None and other.shape == own.shape for other, own in each):
                yield place, prefix


def _tried(
    content: Mapping[str, Any],
    layout: str | None,
    prefix: str | None,
    chosen: tuple[str, ...] | None,
) -> Iterator[tuple[Layout, tuple[str, ...]]]:
    """Rules and where each is tried, in their order."""
    everywhere = list(places(content)) if chosen is None else [chosen]
    if prefix is not None:
        for place in everywhere:
            named = named_tensors(at(content, place))
            for begins in (f"{prefix}.", prefix) if prefix else ("",):
                if any(name.startswith(begins) for name in named):
                    yield Layout("prefix=", place, begins, _FLAT), place
                    yield Layout("prefix=", place, begins, _FLAT, sequential=True), place
                    break
        return
    rules = _rules(layout)
    if chosen is not None:
        yield from ((rule, chosen) for rule in rules)
        return
    yield from ((rule, rule.place) for rule in rules)
    for rule in rules:
        if not rule.marks and rule.name not in _AVERAGES:
            yield from ((rule, place) for place in _CONTAINERS if place != rule.place)


def _chosen(content: Mapping[str, Any], weights: str) -> tuple[str, ...]:
    named = {place_name(place): place for place in places(content)}
    if weights not in named:
        there = ", ".join(named) or "none"
        raise ConfigError(
            f"weights={weights} is no container of weights in this file; it has: {there}."
        )
    return named[weights]


def _rules(layout: str | None) -> list[Layout]:
    rules = [rule for rule in LAYOUTS if layout in (None, rule.name)]
    if not rules:
        names = ", ".join(repr(name) for name in dict.fromkeys(rule.name for rule in LAYOUTS))
        raise ConfigError(f"layout={layout} is unknown; choose one of: {names}.")
    return rules


def _plain_names(state: dict[str, Tensor], sequential: bool) -> dict[str, Tensor]:
    """torchvision's or timm's names for those of a Sequential or of transformers."""
    if sequential:
        return _named_sequential(state) if "0.weight" in state else {}
    return transformers.timm_names(state) if transformers.has_such_names(state) else state


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
    if {"register_tokens", "cls_token", "pos_embed"} <= state.keys():
        state["reg_token"] = state.pop("register_tokens")
        positions = state["pos_embed"]
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        state["pos_embed"] = positions[:, 1:]
    return state
