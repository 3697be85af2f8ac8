"""The head of a C4 detector with one more normalisation: imported only where Detectron2 is."""

from __future__ import annotations

from typing import Any

from detectron2.layers import get_norm
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads

NAME = "Res5ROIHeadsExtraNorm"  # the name that MoCo's config files have


class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """Res5 as the head of each region, followed by a normalisation.

    Res5 ends in a sum of two branches; where batch normalisation is trained and not frozen, one
    more after that sum keeps the magnitudes of different pretrained weights alike (MoCo, He et
    al. 2020, which has it in every C4 detector).
    """

    def __init__(self, cfg: Any, input_shape: Any) -> None:
        """Build the head.

        Args:
            cfg: Detectron2's config; the norm is ``MODEL.RESNETS.NORM``.
            input_shape: Shapes of the backbone's features by name.
        """
        super().__init__(cfg, input_shape)
        channels = self.res5[-1].out_channels
        self.res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))


def register() -> None:
    """Make the head known to Detectron2, under the name that the config files have."""
    if NAME not in ROI_HEADS_REGISTRY:  # which refuses a second one
        ROI_HEADS_REGISTRY.register(Res5ROIHeadsExtraNorm)
