"""Images: data sets, view recipes and loaders."""

from typing import TYPE_CHECKING, Any

from erssl.data.datasets import Datasets, ImageDataset, TransformedDataset
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
from erssl.data.options import DataOptions
from erssl.data.registry import (
    DATASETS,
    available_datasets,
    default_options,
    load_datasets,
    register_dataset,
)
from erssl.data.views import (
    RECIPES,
    ViewOptions,
    build_eval_transform,
    build_views,
    register_views,
)
from erssl.former_names import former

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
    "available_datasets",
    "build_eval_transform",
    "build_views",
    "default_options",
    "find_unreadable",
    "labels_of",
    "listed_subset",
    "load_datasets",
    "load_image",
    "register_dataset",
    "register_views",
    "require_labels",
    "stratified_subset",
    "subset_digest",
]

if not TYPE_CHECKING:  # or every name would pass for one of the package

    def __getattr__(name: str) -> Any:
        return former(__name__, name, {"PictureDataset": "erssl.data.ImageDataset"})
