"""Which backbone a state dict belongs to, where its shapes tell."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from erssl.models.backbones import RESNETS, BackboneOptions

# (blocks of each stage, whether they are bottlenecks); torchvision, Table 1 of the ResNet paper.
_RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}
# (width, depth) of a vision transformer; DeiT's and ViT's tables.
_VITS = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large"}
_PATCHES = (8, 14, 16)


def infer_architecture(
    state: Mapping[str, Tensor], stem_padding: int = 1, heads: int | None = None
) -> BackboneOptions | None:
    """Tell the architecture from names and shapes.

    ResNet-18, 34, 50 and 101 of the usual width, with the 7x7 stem or a 3x3 one for small
    images, and plain vision transformers (tiny, small, base and large; patches of 8, 14 or 16
    pixels; with layer scale and register tokens as DINOv2 has them).

    Args:
        state: Weights under torchvision's or timm's names.
        stem_padding: Of a 3x3 stem, which no shape shows.
        heads: Attention heads of a transformer, which no shape shows; ``None`` for one to 64
            channels.

    Returns:
        What to build, or ``None`` where the shapes do not tell.
    """
    if "layer1.0.conv1.weight" in state and "conv1.weight" in state:
        return _resnet(state, stem_padding)
    if "0.running_mean" in state and "1.weight" in state:
        return _lightly_zoo(state)
    if "patch_embed.proj.weight" in state and "pos_embed" in state:
        return _transformer(state, heads)
    return None


def architecture_label(options: BackboneOptions) -> str:
    """An architecture in a word, such as ``resnet18_cifar`` or ``vit_small_patch14_reg4``."""
    if options.library == "torchvision":
        return options.name + ("_cifar" if options.cifar_stem else "")
    own = options.options
    if options.library == "lightly":
        return f"{options.name}_w{own.get('width', 1):g}_d{own.get('num_ftrs', 32)}"
    name = options.name
    if "patch_size" in own:
        name = re.sub(r"_patch\d+_\d+", f"_patch{own['patch_size']}", name)
    return name + (f"_reg{own['reg_tokens']}" if "reg_tokens" in own else "")


def _resnet(state: Mapping[str, Tensor], stem_padding: int) -> BackboneOptions | None:
    blocks: tuple[int, ...] = tuple(
        _count(state, rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)
    )
    name = _RESNETS.get((blocks, "layer1.0.conv3.weight" in state))
    kernel = state["conv1.weight"].shape[-1]
    if name is None or kernel not in (3, 7):
        return None
    cifar_stem = kernel == 3
    return BackboneOptions(
        name, cifar_stem=cifar_stem, stem_padding=stem_padding if cifar_stem else 1
    )


def _lightly_zoo(state: Mapping[str, Tensor]) -> BackboneOptions | None:
    """lightly's own ResNets, with a normalisation before and a convolution after."""
    blocks = tuple(_count(state, rf"{stage}\.(\d+)\.") for stage in (3, 4, 5, 6))
    names = {(1, 1, 1, 1): "resnet-9", (2, 2, 2, 2): "resnet-18", (3, 4, 6, 3): "resnet-34"}
    if blocks not in names or "7.weight" not in state or "3.0.conv3.weight" in state:
        return None
    options = {"width": len(state["1.weight"]) / 64, "num_ftrs": len(state["7.weight"])}
    return BackboneOptions(names[blocks], "lightly", options=options)


def _transformer(state: Mapping[str, Tensor], heads: int | None) -> BackboneOptions | None:
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    size = _VITS.get((width, _count(state, r"blocks\.(\d+)\.")))
    positions = state["pos_embed"].shape[1]
    side = math.isqrt(positions)  # one more position is the class token's
    if size is None or patch not in _PATCHES or positions - side**2 not in (0, 1):
        return None
    # timm has names for some sizes of patches only, but its ViT takes any as an option.
    options: dict[str, Any] = {"patch_size": patch, "img_size": side * patch}
    options |= {"dynamic_img_size": True}  # images of other sizes: positions are interpolated
    if heads is not None:
        options["num_heads"] = heads
    if "blocks.0.ls1.gamma" in state:
        options["init_values"] = 1e-5  # of the layer scale; overwritten by the weights
    if "reg_token" in state:
        options |= {"reg_tokens": state["reg_token"].shape[1], "no_embed_class": True}
    return BackboneOptions(f"vit_{size}_patch16_224", "timm", options=options)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Number of different indices in names that begin with ``pattern``."""
    return len({m[1] for name in state if (m := re.match(pattern, name))})


def named_architecture(name: str) -> BackboneOptions:
    """Options of an architecture by its name: a torchvision ResNet, ``…_cifar``, or timm's."""
    plain = name.removesuffix("_cifar")
    if plain in RESNETS:
        return BackboneOptions(plain, cifar_stem=plain != name)
    return BackboneOptions(name, "timm")
