"""Maps of patch features: tokens of a vision transformer, or a convolutional net's last stage."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import ResNet

from erssl.errors import ConfigError
from erssl.limits import check_images, lacks_memory
from erssl.models.patch_tokens import PatchTokens, has_patch_tokens
from erssl.models.weights_files import one_line


class PatchMap(nn.Module):
    """A frozen backbone that gives a map (N, D, h, w) of features in place of one vector an image.

    Of a vision transformer it is the patch tokens (:class:`erssl.models.patch_tokens.PatchTokens`);
    of torchvision's ResNets and timm's convolutional networks what the last stage gives before
    pooling, at the network's own stride (32 pixels for a ResNet; nothing is dilated). A transformer
    of timm's whose position embeddings are of another size has them resampled by timm.

    Attributes:
        shape: Width D, height h and width w of the map of one image.
    """

    def __init__(self, backbone: nn.Module, image_size: int) -> None:
        """Take a copy of the backbone, freeze it, and send one image through it.

        Args:
            backbone: On the CPU, of RGB images.
            image_size: Side of the images, pixels.

        Raises:
            ConfigError: If it has no map of features, or does not take images of that size.
        """
        super().__init__()
        self.backbone = copy.deepcopy(backbone).eval().requires_grad_(False)
        self.tokens: PatchTokens | None = None
        check_images("image_size", image_size)
        try:
            if has_patch_tokens(self.backbone):
                if hasattr(self.backbone, "set_input_size"):
                    self.backbone.set_input_size(img_size=image_size)  # type: ignore[operator]
                self.tokens = PatchTokens(self.backbone, image_size)
            with torch.no_grad():
                features = self(torch.zeros(1, 3, image_size, image_size))
        except (AssertionError, MemoryError, RuntimeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            way = "set image_size to the size of its weights"
            if lacks_memory(error):
                way = "memory does not suffice for one image; set image_size to less"
            raise ConfigError(
                f"{type(backbone).__name__} does not take images of {image_size} x {image_size} "
                f"pixels ({one_line(error)}); {way}."
            ) from error
        if features.dim() != 4:
            raise self._no_map()
        self.shape = (int(features.shape[1]), int(features.shape[2]), int(features.shape[3]))

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, D, h, w) of images (N, 3, H, H)."""
        if self.tokens is not None:
            patches: Tensor = self.tokens(images)
            side = math.isqrt(patches.shape[1])
            if side * side != patches.shape[1]:
                raise self._no_map()
            return patches.transpose(1, 2).reshape(len(patches), -1, side, side)
        net: Any = self.backbone
        if isinstance(net, ResNet):
            stem = net.maxpool(net.relu(net.bn1(net.conv1(images))))
            stages: Tensor = net.layer4(net.layer3(net.layer2(net.layer1(stem))))
            return stages
        if not hasattr(net, "forward_features"):
            raise self._no_map()
        features: Tensor = net.forward_features(images)
        rows_first = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
        return features.permute(0, 3, 1, 2) if rows_first and features.dim() == 4 else features

    def train(self, mode: bool = True) -> PatchMap:
        """Stay in eval mode: the backbone is frozen."""
        return super().train(False)

    def _no_map(self) -> ConfigError:
        return ConfigError(
            f"{type(self.backbone).__name__} gives one vector an image and no map of features; "
            "name a checkpoint of a vision transformer, of a torchvision ResNet, or of timm's."
        )
