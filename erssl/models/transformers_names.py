"""Vision transformers under the names of Hugging Face's transformers, as timm names them.

ViT, DeiT, MAE's encoder, DINOv2 (with registers and SwiGLU) and DINOv3. What transformers computes
from ``last_hidden_state[:, 0]`` is what timm's networks of these names give.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from erssl.models.timm_options import NORM_EPS

_STEM = "embeddings.patch_embeddings."
#: What such names begin with in models that carry a head.
PREFIXES = ("", "vit.", "deit.", "dinov2.", "dinov2_with_registers.", "dinov3_vit.", "timm_model.")
_PLAIN = (  # in this order
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^(?:encoder\.)?(?:model\.)?layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.(?:attention\.)?(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(?<!attention)\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^pooler\.dense\.", "head."),
)
# DINOv3's, which timm builds as its Eva.
_EVA = (
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    (r"^register_tokens$", "reg_token"),
)
_PARTS = (("query", "key", "value"), ("q", "k", "v"))
_TEMPERATURE = 100.0  # of DINOv3's rotary positions
_ACTIVATIONS = {  # transformers' names, and timm's
    "gelu": "gelu",
    "relu": "relu",
    "quick_gelu": "quick_gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def has_such_names(state: Mapping[str, Tensor]) -> bool:
    """Whether weights are under transformers' names."""
    return any(name.startswith(_STEM) for name in state)


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under timm's names; query, key and value become one.

    Args:
        state: Weights under transformers' names, without the model's own prefix.

    Returns:
        Weights for timm's ``VisionTransformer``, or for its ``Eva`` where they are DINOv3's, which
        have no table of positions.
    """
    dinov3 = "embeddings.position_embeddings" not in state
    renamed = {_renamed(name, dinov3): tensor for name, tensor in state.items()}
    joined: dict[str, Tensor] = {}
    for name, tensor in renamed.items():
        first = re.fullmatch(r"(blocks\.\d+\.attn\.)(query|q)\.(weight)", name)
        if first:
            joined |= _attention(renamed, first[1], dinov3)
        elif not re.fullmatch(r"blocks\.\d+\.attn\.(query|key|value|[qkv])\.(weight|bias)", name):
            joined[name] = tensor
    return _gated(joined) if dinov3 else joined


def _renamed(name: str, dinov3: bool) -> str:
    for pattern, new in (*_PLAIN, *(_EVA if dinov3 else ())):
        name = re.sub(pattern, new, name)
    return name


def _attention(state: Mapping[str, Tensor], where: str, dinov3: bool) -> dict[str, Tensor]:
    """Query, key and value as one layer; DINOv3's key has no bias, and timm's Eva keeps two."""
    parts = next(p for p in _PARTS if f"{where}{p[0]}.weight" in state)
    weights = [state[f"{where}{part}.weight"] for part in parts]
    biases = [state.get(f"{where}{part}.bias") for part in parts]
    joined = {f"{where}qkv.weight": torch.cat(weights)}
    query, key, value = biases
    if query is None or value is None:
        return joined
    if dinov3 and (key is None or not bool(key.any())):
        return joined | {f"{where}q_bias": query, f"{where}v_bias": value}
    key = torch.zeros_like(query) if key is None else key
    return joined | {f"{where}qkv.bias": torch.cat([query, key, value])}


def _gated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DINOv3's feed-forward layers: Eva's plain one, or its SwiGLU of a gate and a value."""
    gated = any(".mlp.gate_proj." in name for name in state)
    gate, up = ("fc1_g.", "fc1_x.") if gated else ("", "fc1.")
    return {
        n.replace(".mlp.gate_proj.", f".mlp.{gate}").replace(".mlp.up_proj.", f".mlp.{up}"): t
        for n, t in state.items()
    }


def described(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a ``config.json`` of transformers says beyond names and shapes.

    Args:
        config: Its content.

    Returns:
        ``num_heads``, and options of timm's where they are not its usual ones; ``None`` where the
        model is of none of the kinds that are read.

    Raises:
        ValueError: If it has an activation that timm's network has not.
    """
    if config.get("model_type") not in KINDS:
        return None
    dinov3 = config["model_type"] == "dinov3_vit"
    gated = bool(config.get("use_gated_mlp") or config.get("use_swiglu_ffn"))
    options: dict[str, Any] = {"num_heads": int(config["num_attention_heads"])}
    usual = 1e-5 if dinov3 else 1e-6
    if (eps := float(config.get("layer_norm_eps", usual))) != usual:
        options[NORM_EPS] = eps
    temperature = float(config.get("rope_theta", _TEMPERATURE))
    if dinov3 and temperature != _TEMPERATURE:
        options["rope_temperature"] = temperature
    activation = config.get("hidden_act", "gelu")
    if gated and dinov3 and activation != "silu":
        raise ValueError(f"hidden_act={activation} of a gated layer, where silu is read")
    if not gated and activation not in _ACTIVATIONS:
        raise ValueError(f"hidden_act={activation}; read are {', '.join(_ACTIVATIONS)}")
    if not gated and activation != "gelu":
        options["act_layer"] = _ACTIVATIONS[activation]
    return options


#: Values of ``model_type`` that are read.
KINDS = ("vit", "deit", "vit_mae", "vit_msn", "dinov2", "dinov2_with_registers", "dinov3_vit")
