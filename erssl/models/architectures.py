"""Which backbone a state dict belongs to, where its shapes tell."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from erssl.models.backbones import BackboneOptions
from erssl.models.channels import channels_of

# (blocks of each stage, whether they are bottlenecks); torchvision, Table 1 of the ResNet paper.
_RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}
# (width, depth) of a vision transformer; DeiT's and ViT's tables.
_VITS = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large"}
_DISTILLED = ("tiny", "small", "base")
_HEAD_WIDTH = 64  # channels of an attention head in nearly all of them


def infer_architecture(
    state: Mapping[str, Tensor], stem_padding: int = 1, heads: int | None = None
) -> BackboneOptions | None:
    """Tell the architecture from names and shapes.

    ResNet-18, 34, 50 and 101 of the usual width, with the 7x7 stem or a 3x3 one for small
    images, and vision transformers: timm's ``VisionTransformer`` of any width and depth (with or
    without class token, registers, layer scale, SwiGLU, a normalisation before the blocks or of
    queries and keys, pooled by the class token or on average), DeiT's with a distillation token,
    and DINOv3's.

    Args:
        state: Weights under torchvision's or timm's names.
        stem_padding: Of a 3x3 stem, which no shape shows.
        heads: Attention heads of a transformer, where known; ``None`` takes one to 64 channels,
            since no shape shows them.

    Returns:
        What to build, or ``None`` where the shapes do not tell.
    """
    options = _inferred(state, stem_padding, heads)
    return None if options is None else replace(options, in_channels=channels_of(state))


def _inferred(
    state: Mapping[str, Tensor], stem_padding: int, heads: int | None
) -> BackboneOptions | None:
    if "layer1.0.conv1.weight" in state and "conv1.weight" in state:
        return _resnet(state, stem_padding)
    if "0.running_mean" in state and "1.weight" in state:
        return _lightly_zoo(state)
    if "patch_embed.proj.weight" in state and "blocks.0.attn.qkv.weight" in state:
        return _dinov3(state, heads) if _is_dinov3(state) else _transformer(state, heads)
    return None


def assumed_of_transformer(
    options: BackboneOptions, state: Mapping[str, Tensor], heads: int | None
) -> tuple[str, ...]:
    """What :func:`infer_architecture` assumed of a transformer that no shape shows.

    Args:
        options: What it gave.
        state: The weights.
        heads: Attention heads as they were known there.

    Returns:
        Each assumption with its value and the ``arch=`` that says otherwise; none for other
        networks.
    """
    stem = state.get("patch_embed.proj.weight")
    if stem is None:
        return ()
    assumed = []
    own = options.options
    if "img_size" in own:  # 14 x 14 positions could be 7 x 28, or 13 x 15 and the class token's
        alone = own.get("no_embed_class") and "reg_tokens" not in own
        assumed.append(
            f"square images of {own['img_size']} pixels"
            + (", and no position for the class token" if alone else "")
            + _otherwise(options, "img_size", "<height>x<width>")
        )
    if heads is None and "blocks.0.attn.q_norm.weight" not in state:
        number = stem.shape[0] // _HEAD_WIDTH
        otherwise = _otherwise(options, "num_heads", "<number>")
        assumed.append(f"num_heads {number}, one for {_HEAD_WIDTH} channels{otherwise}")
    if "norm_pre.weight" in state:  # CLIP's, of which some have another
        otherwise = _otherwise(options, "act_layer", "quick_gelu")
        assumed.append(f"act_layer gelu, where OpenAI's CLIP has quick_gelu{otherwise}")
    return tuple(assumed)


def _otherwise(options: BackboneOptions, key: str, value: str) -> str:
    """How a user says another value of an option than the one that was assumed."""
    own = {k: v for k, v in options.options.items() if k not in (key, "dynamic_img_size")}
    if f"_patch{own.get('patch_size')}_" in options.name:
        del own["patch_size"]
    said = [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in own.items()]
    return f" (otherwise arch={','.join([options.name, *said, f'{key}={value}'])})"


def architecture_label(options: BackboneOptions) -> str:
    """Name an architecture: ``resnet18_cifar``, ``vit_small_patch14_reg4``."""
    if options.library == "torchvision":
        return options.name + ("_cifar" if options.cifar_stem else "")
    own = options.options
    if options.library == "lightly":
        return f"{options.name}_w{own.get('width', 1):g}_d{own.get('num_ftrs', 32)}"
    name = options.name
    if "patch_size" in own:
        name = re.sub(r"_patch\d+_\d+", f"_patch{own['patch_size']}", name)
    if "embed_dim" in own or "depth" in own:  # not the size that the name says
        name += f"_w{own.get('embed_dim', 'named')}_d{own.get('depth', 'named')}"
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
    shape = _shape(state, heads)
    if shape is None or "pos_embed" not in state:
        return None
    width, depth, patch, number = shape
    tokens = {name: name in state for name in ("cls_token", "dist_token")}
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    grid = _grid(state["pos_embed"].shape[1], sum(tokens.values()) + registers)
    if grid is None:
        return None
    side, embeds_tokens = grid
    size = _VITS.get((width, depth))
    name = f"vit_{size or 'base'}_patch16_224"
    options: dict[str, Any] = {} if size else {"embed_dim": width, "depth": depth}
    # timm has names for some sizes of patches only, but its ViT takes any as an option.
    options |= {"patch_size": patch, "img_size": side * patch}
    options |= {"dynamic_img_size": True}  # images of other sizes: positions are interpolated
    if number != width // _HEAD_WIDTH or heads is not None or not size:
        options["num_heads"] = number
    if tokens["dist_token"]:
        if size not in _DISTILLED:
            return None
        name = f"deit_{size}_distilled_patch16_224"
    if registers:
        options["reg_tokens"] = registers
    if not embeds_tokens and (tokens["cls_token"] or registers):
        options["no_embed_class"] = True
    if not tokens["cls_token"]:
        options["class_token"] = False
    if "fc_norm.weight" in state:
        options["global_pool"] = "avg"
    elif not tokens["cls_token"]:
        options |= {"global_pool": "avg", "fc_norm": False}
    return _with_feed_forward(name, options | _layers(state), state, width)


def _with_feed_forward(
    name: str, options: dict[str, Any], state: Mapping[str, Tensor], width: int
) -> BackboneOptions | None:
    """Add the width of the feed-forward layers, and their gate where they have one."""
    first, second = (state.get(f"blocks.0.mlp.fc{i}.weight") for i in (1, 2))
    if first is None or second is None:
        return None
    if first.shape[0] == 2 * second.shape[1]:  # SwiGLU, which only this name of timm has
        if "deit" in name:
            return None
        options = {"embed_dim": width, "depth": _count(state, r"blocks\.(\d+)\."), **options}
        options.setdefault("num_heads", width // _HEAD_WIDTH)
        name, usual = "vit_giant_patch14_dinov2", 2.66667 * 2
    else:
        usual = 4.0
    if first.shape[0] != int(width * usual):
        options["mlp_ratio"] = first.shape[0] / width
    return BackboneOptions(name, "timm", options=options)


def _layers(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options of the blocks that names show."""
    options: dict[str, Any] = {}
    if "blocks.0.ls1.gamma" in state:
        options["init_values"] = 1e-5  # of the layer scale; overwritten by the weights
    if "norm_pre.weight" in state:
        options["pre_norm"] = True
    if "blocks.0.attn.q_norm.weight" in state:
        options["qk_norm"] = True
    if "blocks.0.attn.qkv.bias" not in state:
        options["qkv_bias"] = False
    return options


def _shape(state: Mapping[str, Tensor], heads: int | None) -> tuple[int, int, int, int] | None:
    """Width, depth, patch and attention heads of a transformer."""
    stem = state["patch_embed.proj.weight"]
    if stem.ndim != 4 or stem.shape[2] != stem.shape[3]:
        return None
    width, patch = stem.shape[0], stem.shape[2]
    norm = state.get("blocks.0.attn.q_norm.weight")
    number = heads or width // (norm.shape[0] if norm is not None else _HEAD_WIDTH)
    if not number or width % number:
        return None
    return width, _count(state, r"blocks\.(\d+)\."), patch, number


def _grid(positions: int, tokens: int) -> tuple[int, bool] | None:
    """Side of a square grid of positions, and whether other tokens have positions too."""
    for embedded in (tokens, 0):
        side = math.isqrt(max(0, positions - embedded))
        if side and side**2 == positions - embedded:
            return side, embedded > 0
    return None


def _is_dinov3(state: Mapping[str, Tensor]) -> bool:
    return "pos_embed" not in state and {"blocks.0.gamma_1", "reg_token"} <= state.keys()


def _dinov3(state: Mapping[str, Tensor], heads: int | None) -> BackboneOptions | None:
    """DINOv3's, which timm builds as its Eva; the feature is the class token, as upstream."""
    shape = _shape(state, heads)
    second = state.get("blocks.0.mlp.fc2.weight")
    if shape is None or second is None:
        return None
    width, depth, patch, number = shape
    name = "vit_small_patch16_dinov3" + ("_qkvb" if "blocks.0.attn.q_bias" in state else "")
    options: dict[str, Any] = {"embed_dim": width, "depth": depth, "num_heads": number}
    options |= {"patch_size": patch, "num_reg_tokens": state["reg_token"].shape[1]}
    options |= {"mlp_ratio": second.shape[1] / width, "global_pool": "token"}
    if "blocks.0.mlp.fc1_g.weight" in state:
        options |= {"swiglu_mlp": True, "swiglu_align_to": 1}  # the kind with gate and value apart
    return BackboneOptions(name, "timm", options=options)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Number of different indices in names that begin with ``pattern``."""
    return len({m[1] for name in state if (m := re.match(pattern, name))})
