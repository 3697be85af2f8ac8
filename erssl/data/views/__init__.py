"""Views of an image: the recipes, what is drawn for each view, and the ways they are made."""

from erssl.data.views import recipes  # registers them
from erssl.data.views.options import (
    RECIPES,
    Crops,
    ViewOptions,
    available_views,
    build_views,
    register_views,
)
from erssl.data.views.plain import build_crop_transform, build_eval_transform

__all__ = [
    "RECIPES",
    "Crops",
    "ViewOptions",
    "available_views",
    "build_crop_transform",
    "build_eval_transform",
    "build_views",
    "recipes",
    "register_views",
]
