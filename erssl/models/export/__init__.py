"""Backbones for other people's code: files that their own loaders read."""

from erssl.models.export.backbone import Export, export_backbone

__all__ = ["Export", "export_backbone"]
