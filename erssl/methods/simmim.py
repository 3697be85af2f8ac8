"""SimMIM (arXiv 2111.09886), on lightly's masked vision transformer."""

from __future__ import annotations

import math

import torch
from lightly.models import utils
from torch import Tensor, nn
from typing_extensions import Unpack

from erssl.entropy.precision import at_least_float32
from erssl.errors import ConfigError
from erssl.methods.info import MethodInfo
from erssl.methods.masked import MaskedImageMethod
from erssl.methods.options import TrainingOptions
from erssl.methods.registry import register_method
from erssl.recipes import read_recipe

OPTIONS = read_recipe("simmim").options


class PixelHead(nn.Module):
    """The mask token, and one linear layer from a token to its patch."""

    def __init__(self, dim: int, output_dim: int) -> None:
        """Draw the mask token from a normal distribution of deviation 0.02.

        Args:
            dim: Dimension of the tokens.
            output_dim: Values of a patch.
        """
        super().__init__()
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, 1, dim), std=0.02))
        self.predict = nn.Linear(dim, output_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Values (N, M, output_dim) of tokens (N, M, dim)."""
        values: Tensor = self.predict(tokens)
        return values


@register_method("simmim")
class SimMIM(MaskedImageMethod):
    """A linear layer fills in large masked squares; the encoder sees a token in their place.

    Positions are the backbone's own embeddings; the authors' ViT has a relative position bias,
    layer scale and stochastic depth in their place. The latter two are options of timm's:
    ``backbone.options.init_values=0.1 backbone.options.drop_path_rate=0.1``.
    """

    info = MethodInfo(
        paper="Xie et al. 2022, arXiv 2111.09886",
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
        mask_size: int = OPTIONS["mask_size"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are those of SimMIM's code for ViT-B/16.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            mask_ratio: Share of the squares that are masked, rounded up; 0.6.
            mask_size: Side of a masked square in pixels, a multiple of the patch size; 32.
            **training: See :class:`MultiViewMethod`.

        Raises:
            ConfigError: If the ratio is out of range, or the squares fit neither the patches nor
                the images.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        if not 0 < mask_ratio < 1:
            raise ConfigError(f"method.mask_ratio must lie between 0 and 1 but is {mask_ratio}.")
        if mask_size < 1 or mask_size % self.patch_size:
            raise ConfigError(
                f"method.mask_size={mask_size} must be a multiple of the backbone's patch size, "
                f"{self.patch_size} pixels."
            )
        self.mask_ratio = mask_ratio
        self.mask_size = mask_size
        self.criterion = nn.L1Loss()
        if not self.backbone.dynamic_img_size:
            self._squares(self.backbone.patch_embed.img_size[0])
        self.decoder = PixelHead(self.feature_dim, self.channels * self.patch_size**2)
        self.set_encoder(
            self.decoder.mask_token, weight_initialization="skip", pos_embed_initialization="skip"
        )

    def draw_mask(self, images: Tensor) -> Tensor:
        """Indices of the masked patches (N, M), whole squares of ``mask_size`` pixels."""
        side, masked = self._squares(images.shape[-1])
        patches = self.mask_size // self.patch_size
        draws = torch.rand(len(images), side**2, device=images.device, dtype=torch.float32)
        order = draws.argsort(dim=1)
        squares = torch.zeros_like(order).scatter(1, order[:, :masked], 1).view(-1, side, side)
        mask = squares.repeat_interleave(patches, 1).repeat_interleave(patches, 2).flatten(1)
        return mask.argsort(dim=1, descending=True, stable=True)[:, : masked * patches**2]

    def _squares(self, image_size: int) -> tuple[int, int]:
        """Squares on a side of an image and number of masked ones; refuses sizes without."""
        side = image_size // self.mask_size
        masked = math.ceil(side**2 * self.mask_ratio)
        if image_size % self.mask_size or masked == side**2:
            raise ConfigError(
                f"Views of {image_size} pixels cannot be masked in squares of "
                f"method.mask_size={self.mask_size} pixels with method.mask_ratio="
                f"{self.mask_ratio} and some left to see; choose a smaller mask_size that divides "
                f"{image_size}."
            )
        return side, masked

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean absolute error of the masked pixels."""
        idx_mask = self.draw_mask(images)
        idx_token = idx_mask + self.num_prefix_tokens
        tokens = self.encoder.encode(images, idx_mask=idx_token)
        predicted = self.decoder(utils.get_at_index(tokens, idx_token))
        patches = utils.patchify(at_least_float32(images), self.patch_size)
        return self.criterion(
            at_least_float32(predicted), utils.get_at_index(patches, idx_mask)
        ), tokens
