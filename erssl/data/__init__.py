"""Images: data sets, view recipes and loaders."""

from erssl.data.datasets import Datasets, ImageDataset, TransformedDataset, load_datasets
from erssl.data.images import find_unreadable, load_image
from erssl.data.labelled import (
    LabelledDataModule,
    labels_of,
    listed_subset,
    require_labels,
    stratified_subset,
    subset_digest,
)
from erssl.data.module import SSLDataModule
from erssl.data.options import DATASETS, DataOptions, default_options
from erssl.data.views import RECIPES, ViewOptions, build_eval_transform, build_views

__all__ = [
    "DATASETS",
    "RECIPES",
    "DataOptions",
    "Datasets",
    "ImageDataset",
    "LabelledDataModule",
    "SSLDataModule",
    "TransformedDataset",
    "ViewOptions",
    "build_eval_transform",
    "build_views",
    "default_options",
    "find_unreadable",
    "labels_of",
    "listed_subset",
    "load_datasets",
    "load_image",
    "require_labels",
    "stratified_subset",
    "subset_digest",
]
