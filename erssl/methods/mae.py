"""MAE (arXiv 2111.06377), on lightly's masked vision transformer and decoder."""

from __future__ import annotations

import math

import torch
from lightly.models import utils
from lightly.models.modules import MaskedVisionTransformerDecoderTIMM
from lightly.models.modules.masked_vision_transformer_timm import init_weights
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from typing_extensions import Unpack

from erssl.entropy.precision import at_least_float32
from erssl.errors import ConfigError
from erssl.methods.info import MethodInfo
from erssl.methods.masked import MaskedImageMethod
from erssl.methods.options import TrainingOptions
from erssl.methods.registry import register_method
from erssl.recipes import read_recipe

OPTIONS = read_recipe("mae").options


class PixelDecoder(MaskedVisionTransformerDecoderTIMM):
    """lightly's decoder with its first and last layer, for images of any size."""

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        dim: int,
        depth: int,
        heads: int,
        grid: int,
        prefix: int,
    ) -> None:
        """Build and initialise it as MAE's code does.

        Args:
            input_dim: Dimension of the encoder's tokens.
            output_dim: Values of a patch.
            dim: Width.
            depth: Number of blocks.
            heads: Attention heads of each.
            grid: Patches on a side of the usual image.
            prefix: Tokens before the patches, such as the class token.
        """
        super().__init__(grid**2, dim, depth, heads, num_prefix_tokens=prefix)
        self.embed = nn.Linear(input_dim, dim)
        self.predict = nn.Linear(dim, output_dim)
        for layer in (self.embed, self.predict):
            init_weights(layer)

    def add_pos_embed(self, x: Tensor) -> Tensor:
        """Positions of as many patches as there are."""
        side = math.isqrt(x.shape[1] - self.num_prefix_tokens)
        position = resample_abs_pos_embed(
            self.pos_embed, [side, side], num_prefix_tokens=self.num_prefix_tokens
        )
        positioned: Tensor = x + position
        return positioned

    def fill_in(self, tokens: Tensor, idx_keep: Tensor, idx_mask: Tensor) -> Tensor:
        """Values (N, M, output_dim) of the M masked patches, from the tokens that were kept."""
        length = idx_keep.shape[1] + idx_mask.shape[1]
        embedded = self.embed(tokens)
        masked = self.mask_token.to(embedded.dtype).expand(len(tokens), length, -1)
        decoded = self(utils.set_at_index(masked, idx_keep, embedded))
        values: Tensor = self.predict(utils.get_at_index(decoded, idx_mask))
        return values


@register_method("mae")
class MAE(MaskedImageMethod):
    """A small decoder fills in the three quarters of the patches that the encoder does not see."""

    info = MethodInfo(
        paper="He et al. 2022, arXiv 2111.06377",
        family="masked images",
        target="pixels",
        min_views=1,
        entropy="(no pair of views)",
        reconstruction="pixels of masked patches",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        mask_ratio: float = OPTIONS["mask_ratio"],
        norm_pixels: bool = OPTIONS["norm_pixels"],
        initialize_backbone: bool = OPTIONS["initialize_backbone"],
        decoder_dim: int = OPTIONS["decoder_dim"],
        decoder_depth: int = OPTIONS["decoder_depth"],
        decoder_heads: int = OPTIONS["decoder_heads"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are those of MAE's code for ViT-B/16.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            mask_ratio: Share of the patches that are left out; 0.75.
            norm_pixels: Standardise each patch before it is compared.
            initialize_backbone: Initialise the backbone as MAE does, with fixed sine-cosine
                positions; false leaves the weights as they come.
            decoder_dim: Width of the decoder.
            decoder_depth: Blocks of the decoder.
            decoder_heads: Attention heads of the decoder.
            **training: See :class:`MultiViewMethod`.

        Raises:
            ConfigError: If the ratio is out of range or the decoder's width does not fit its heads.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        if not 0 < mask_ratio < 1:
            raise ConfigError(f"method.mask_ratio must lie between 0 and 1 but is {mask_ratio}.")
        if decoder_dim % decoder_heads or decoder_dim % 4:
            raise ConfigError(
                f"method.decoder_dim={decoder_dim} must be a multiple of 4 and of "
                f"method.decoder_heads={decoder_heads}."
            )
        self.mask_ratio = mask_ratio
        self.norm_pixels = norm_pixels
        self.criterion = nn.MSELoss()
        self.decoder = PixelDecoder(
            self.feature_dim,
            self.channels * self.patch_size**2,
            decoder_dim,
            decoder_depth,
            decoder_heads,
            grid=math.isqrt(self.backbone.patch_embed.num_patches),
            prefix=self.num_prefix_tokens,
        )
        self.set_encoder(
            weight_initialization="" if initialize_backbone else "skip",
            pos_embed_initialization="skip",  # lightly's overlooks no_embed_class
        )
        if initialize_backbone:
            prefix = 0 if self.backbone.no_embed_class else self.num_prefix_tokens
            utils.initialize_positional_embedding(self.backbone.pos_embed, "sincos", prefix)

    def draw_mask(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of kept and of masked tokens, each image's own; prefix tokens are kept."""
        patches = (images.shape[-1] // self.patch_size) ** 2
        idx_keep, idx_mask = utils.random_token_mask(
            (len(images), patches), self.mask_ratio, mask_class_token=True, device=images.device
        )
        prefix = torch.arange(self.num_prefix_tokens, device=images.device)
        idx_keep = torch.cat(
            [prefix.expand(len(images), -1), idx_keep + self.num_prefix_tokens], dim=1
        )
        return idx_keep, idx_mask + self.num_prefix_tokens

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error of the masked patches, from the tokens of the kept ones."""
        idx_keep, idx_mask = self.draw_mask(images)
        tokens = self.encoder.encode(images, idx_keep=idx_keep)
        predicted = self.decoder.fill_in(tokens, idx_keep, idx_mask)
        patches = utils.patchify(at_least_float32(images), self.patch_size)
        target = utils.get_at_index(patches, idx_mask - self.num_prefix_tokens)
        if self.norm_pixels:
            target = utils.normalize_mean_var(target, dim=-1)
        return self.criterion(at_least_float32(predicted), target), tokens
