"""Views of an image: the recipes, what is drawn for each view, and the ways they are made."""

from erssl.data.views.recipes import (
    RECIPES,
    ViewOptions,
    build_crop_transform,
    build_eval_transform,
    build_views,
)

__all__ = [
    "RECIPES",
    "ViewOptions",
    "build_crop_transform",
    "build_eval_transform",
    "build_views",
]
