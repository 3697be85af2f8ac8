"""Pictures: data sets, view recipes and loaders."""

from erssl.data.datasets import Datasets, PictureDataset, load_datasets
from erssl.data.images import find_unreadable, load_image
from erssl.data.module import SSLDataModule, TransformedDataset
from erssl.data.options import DATASETS, DataOptions, default_options
from erssl.data.views import RECIPES, ViewOptions, build_eval_transform, build_views

__all__ = [
    "DATASETS",
    "RECIPES",
    "DataOptions",
    "Datasets",
    "PictureDataset",
    "SSLDataModule",
    "TransformedDataset",
    "ViewOptions",
    "build_eval_transform",
    "build_views",
    "default_options",
    "find_unreadable",
    "load_datasets",
    "load_image",
]
