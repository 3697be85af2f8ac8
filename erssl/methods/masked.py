"""Base of methods that reconstruct what they do not see: a timm vision transformer, masked."""

from __future__ import annotations

from typing import Any

import torch
from lightly.models.modules import MaskedVisionTransformerTIMM
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from typing_extensions import Unpack

from erssl.errors import ConfigError
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import StepOutput
from erssl.methods.options import TrainingOptions
from erssl.models import BackboneOptions


class MaskedImageMethod(MultiViewMethod):
    """Reconstructs every view that it is given; the loss is the mean over views.

    There is no projection head: :meth:`embed` gives the backbone's features. Those that the online
    probe is trained on are of the masked images, as in lightly's benchmark. ``channels_last`` and
    ``compile`` reach evaluation only: in training the tokens pass the blocks one by one.
    """

    default_backbone = BackboneOptions("vit_base_patch16_224", library="timm")

    backbone: VisionTransformer

    def __init__(
        self, batch_size_per_device: int, num_classes: int, **training: Unpack[TrainingOptions]
    ) -> None:
        """Check the backbone.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            **training: See :class:`MultiViewMethod`.

        Raises:
            ConfigError: If the backbone is no vision transformer of timm, or one that cannot be
                trained so.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        vit = self.backbone
        fault = _fault(vit)
        if fault:
            raise ConfigError(
                f"Masked images need a timm VisionTransformer but the backbone {fault}; choose "
                "backbone=timm backbone.name=vit_base_patch16_224, another plain vit_* of timm, or "
                "a checkpoint of one."
            )
        vit.fc_norm.requires_grad_(False)  # after the tokens, where no gradient comes from
        self.projection_head = nn.Identity()
        self.patch_size = int(vit.patch_embed.patch_size[0])
        self.channels = int(vit.patch_embed.proj.in_channels)
        self.num_prefix_tokens = int(vit.num_prefix_tokens)

    def set_encoder(self, mask_token: nn.Parameter | None = None, **initialization: str) -> None:
        """Wrap the backbone such that it takes masks.

        Args:
            mask_token: Stands for masked patches; ``None`` where they are left out.
            initialization: lightly's ``weight_initialization`` and ``pos_embed_initialization``.
        """
        wrapper = MaskedVisionTransformerTIMM(self.backbone, mask_token, **initialization)
        # in a tuple, lest the backbone be a child twice, in state_dict and in the optimiser
        self._encoder = (wrapper,)

    @property
    def encoder(self) -> MaskedVisionTransformerTIMM:
        """lightly's wrapper of the backbone, which shares its weights."""
        return self._encoder[0]

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of images (N, C, H, W) and tokens (N, T, feature_dim) of what was seen of them."""
        raise NotImplementedError

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """The mean of the reconstruction losses of the views."""
        losses, tokens = zip(*(self.reconstruct(view) for view in views), strict=True)
        features = [self.backbone.forward_head(t) for t in tokens]
        return StepOutput(torch.stack(losses).mean(), features[0], features[0], features[-1])


def _fault(backbone: nn.Module) -> str:
    """What keeps the backbone from being trained on masked images; empty if nothing does."""
    if not isinstance(backbone, VisionTransformer):
        return f"is a {type(backbone).__name__}"
    vit: Any = backbone
    if vit.pos_embed is None:
        return "has no position embeddings"
    if vit.attn_pool is not None:
        return "pools by attention, which reconstruction would not train"
    rows, columns = vit.patch_embed.grid_size
    return "" if rows == columns else f"takes {rows} x {columns} patches, not a square"
