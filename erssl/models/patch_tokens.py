"""The patch tokens of a vision transformer, in place of its one vector an image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from erssl.errors import ConfigError
from erssl.models.channels import RGB


def has_patch_tokens(backbone: nn.Module) -> bool:
    """Whether it is a vision transformer of timm's or torchvision's."""
    return isinstance(backbone, VisionTransformer) or (
        hasattr(backbone, "forward_features") and hasattr(backbone, "num_prefix_tokens")
    )


class PatchTokens(nn.Module):
    """A vision transformer that gives its patch tokens (N, T, D), row by row of the image.

    They are what the last block gives, after the transformer's final normalisation where it
    normalises tokens; class, distillation and register tokens are left out. A transformer that
    normalises after pooling (timm's ``fc_norm``) leaves them without.

    Attributes:
        shape: Number of tokens T and width D, of images of ``image_size``.
    """

    def __init__(self, backbone: nn.Module, image_size: int, channels: int = RGB) -> None:
        """Take a transformer of timm's or torchvision's, and send one image through it.

        Args:
            backbone: In eval mode, on the CPU.
            image_size: Side of the images, pixels.
            channels: Of the images.

        Raises:
            ConfigError: If it has no patch tokens.
        """
        super().__init__()
        self.backbone = backbone
        tokens = has_patch_tokens(backbone)
        with torch.no_grad():
            patches = self(torch.zeros(1, channels, image_size, image_size)) if tokens else None
        if patches is None or patches.dim() != 3:
            raise ConfigError(
                f"on=patches needs a vision transformer of timm's or torchvision's, and "
                f"{type(backbone).__name__} has no patch tokens; leave on=patches out."
            )
        self.shape = (int(patches.shape[1]), int(patches.shape[2]))

    def forward(self, images: Tensor) -> Tensor:
        """Patch tokens (N, T, D) of images (N, C, H, W)."""
        vit: Any = self.backbone
        if isinstance(vit, VisionTransformer):
            patches: Tensor = vit._process_input(images)
            classes = vit.class_token.expand(len(patches), -1, -1)
            encoded: Tensor = vit.encoder(torch.cat([classes, patches], dim=1))
            return encoded[:, 1:]
        tokens: Tensor = vit.forward_features(images)
        return tokens[:, vit.num_prefix_tokens :]
