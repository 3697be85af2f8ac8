"""Backbones and heads."""

from erssl.models.backbones import (
    BackboneOptions,
    build_backbone,
    check_input_size,
    load_backbone,
    save_backbone,
)
from erssl.models.heads import Prototypes, mlp_head

__all__ = [
    "BackboneOptions",
    "Prototypes",
    "build_backbone",
    "check_input_size",
    "load_backbone",
    "mlp_head",
    "save_backbone",
]
