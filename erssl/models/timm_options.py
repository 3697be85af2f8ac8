"""What may be handed on to timm: options that describe a network, and nothing that reads a file.

``timm.create_model`` takes any keyword, among them a path that it reads, an address that it fetches
and a configuration that names either; a file of somebody else's must not be able to say those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from erssl.errors import ConfigError
from erssl.models.channels import RGB

#: Own option: epsilon of every layer normalisation, which timm takes as a Python function only.
NORM_EPS = "layer_norm_eps"
#: Own option: false takes the max-pooling of a ResNet's stem away, for images of some 32 pixels.
STEM_POOL = "stem_pool"

#: Arguments of timm's models that hold sizes, switches and names of layers.
ALLOWED = frozenset(
    {
        # images and patches
        "img_size", "patch_size", "window_size", "window_ratio", "stride",
        "dynamic_img_size", "dynamic_img_pad", "strict_img_size", "always_partition",
        "output_stride", "ref_feat_shape", "pretrained_window_sizes", "patch_norm",
        # width and depth
        "embed_dim", "embed_dims", "dim", "dims", "depth", "depths", "layers", "channels",
        "width", "widths", "num_heads", "heads", "num_kv_heads", "head_dim", "key_dim",
        "mlp_ratio", "mlp_ratios", "expand_ratio", "expansion_ratio", "num_features",
        "block_config", "growth_rate", "cardinality", "base_width", "groups", "bn_size",
        "kernel_size", "kernel_sizes", "downsamples", "sr_ratios", "reduction",
        "channel_multiplier", "depth_multiplier", "width_factor", "head_hidden_size",
        "head_widths", "hidden_dim", "num_init_features", "block_reduce_first",
        # stems
        "stem_type", "stem_width", "stem_size", "stem_chs", "stem_kernel_size", "stem_stride",
        "stem_norm", "stem_bias", "stem_conv", "conv_bias", "conv_mlp", "replace_stem_pool",
        "fix_stem", "down_kernel_size", "avg_down", "use_overlap_down",
        # tokens, positions and pooling
        "class_token", "reg_tokens", "num_reg_tokens", "no_embed_class", "pos_embed",
        "global_pool", "fc_norm", "use_fc_norm", "final_norm", "pre_norm", "pool_type",
        "pool_include_prefix", "use_abs_pos_emb", "use_rot_pos_emb", "use_rel_pos_bias",
        "use_shared_rel_pos_bias", "rope_type", "rope_temperature", "rope_rotate_half",
        "rope_grid_offset", "rope_grid_indexing", "rope_shift_coords", "rope_jitter_coords",
        "rope_rescale_coords", "rope_theta", "use_rope", "use_abs_pos", "use_rel_pos",
        # attention, feed-forward and normalisation
        "qkv_bias", "qkv_fused", "qk_norm", "proj_bias", "init_values", "ls_init_value",
        "layer_scale_init_value", "swiglu_mlp", "swiglu_align_to", "scale_mlp", "use_grn",
        "scale_attn_inner", "scale_attn_norm", "scale_mlp_norm", "use_post_norm", "norm_eps",
        "use_pre_transformer_norm", "use_post_transformer_norm", "head_norm_first",
        "norm_layer", "act_layer", "aa_layer", "se_layer", "pad_type", "attn_ratio", "use_lab",
        "preact", "extra_norm_period", "extra_norm_stage", "sequential_attn", "head_init_scale",
        # what is drawn while training, and how weights begin
        "drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate", "pos_drop_rate",
        "patch_drop_rate", "drop_block_rate", "weight_init", "fix_init", "zero_init_last",
        NORM_EPS, STEM_POOL,
    }
)  # fmt: skip
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_]{0,40}")  # of layers and kinds; no path, no address
_HINT = "see erssl.models.timm_options.ALLOWED for what may be said"


def check_timm_options(options: Mapping[str, Any]) -> None:
    """Refuse options that do not describe a network.

    Args:
        options: Keyword arguments for ``timm.create_model``.

    Raises:
        ConfigError: Naming the first that may not be passed.
    """
    for name, value in options.items():
        if name == "in_chans":
            raise ConfigError(
                f"backbone.options.in_chans={value} follows from the images; set data.channels."
            )
        if name not in ALLOWED:
            raise ConfigError(
                f"backbone.options.{name} is not handed on to timm, since it does not describe the "
                f"network; leave it out ({_HINT})."
            )
        if name == STEM_POOL and not isinstance(value, bool):
            raise ConfigError(f"backbone.options.{name}={value!r} is neither true nor false.")
        if not _is_plain(value):
            raise ConfigError(
                f"backbone.options.{name}={value!r} is no number, switch, name of a layer or list "
                "of those; nothing else is handed on to timm."
            )


def timm_arguments(options: Mapping[str, Any], in_channels: int = RGB) -> dict[str, Any]:
    """Keyword arguments with which ``timm.create_model`` builds the network.

    Args:
        options: Of a :class:`erssl.models.BackboneOptions`.
        in_channels: Its channels.

    Returns:
        The backbone's own options, but for those that are erssl's and not timm's.
    """
    own = {key: value for key, value in options.items() if key not in (NORM_EPS, STEM_POOL)}
    return own if in_channels == RGB else own | {"in_chans": in_channels}


def square_size(options: Mapping[str, Any]) -> int | None:
    """Side of the images of a network of one size; ``None`` where it has none, or no square."""
    size = options.get("img_size")
    if isinstance(size, (list, tuple)) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    return size if isinstance(size, int) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
    if isinstance(value, str):
        return bool(_PLAIN_TEXT.fullmatch(value))
    return value is None or isinstance(value, (bool, int, float))
