"""Backbones and heads, and the files that they come from and go to."""

from erssl.models.adapting import with_channels
from erssl.models.backbones import BackboneOptions, build_backbone, check_input_size
from erssl.models.heads import Prototypes, mlp_head, shiftless_norm
from erssl.models.loading import LoadReport, load_backbone
from erssl.models.named import named_architecture
from erssl.models.saving import save_backbone
from erssl.models.small_maps import quicken_small_maps

__all__ = [
    "BackboneOptions",
    "LoadReport",
    "Prototypes",
    "build_backbone",
    "check_input_size",
    "load_backbone",
    "mlp_head",
    "named_architecture",
    "quicken_small_maps",
    "save_backbone",
    "shiftless_norm",
    "with_channels",
]
