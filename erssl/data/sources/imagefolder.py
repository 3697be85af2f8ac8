"""``data=imagefolder``: a user's own folders of images."""

from __future__ import annotations

from typing import Any

from erssl.data.datasets import Datasets
from erssl.data.folder_datasets import load_folders
from erssl.data.options import DataOptions, FileOptions
from erssl.data.registry import register_dataset
from erssl.errors import ConfigError, DataError


@register_dataset("imagefolder")
class ImageFolder(FileOptions):
    """Folders with one sub-folder a class, or images alone for training without labels.

    Attributes:
        train_dir: Training images.
        val_dir: Validation images; without them there is no accuracy.
        val_fraction: Share of each class of ``train_dir`` that is held out of training as the
            validation images, in place of ``val_dir``; the same images whatever the seed.
        labelled_dir: Labelled images that kNN, linear evaluation and every other command take for
            the training images, with classes as ``val_dir``; those of ``train_dir`` are then read
            at any depth and without labels, for pretraining alone. ``val_fraction`` is of these.
    """

    user_sized = True
    needs_val = "name a folder of them with data.val_dir"

    train_dir: str | None = None
    val_dir: str | None = None
    val_fraction: float | None = None
    labelled_dir: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.val_fraction is None:
            return
        if not 0 < self.val_fraction < 1:
            raise ConfigError(
                f"data.val_fraction={self.val_fraction} is no share of the images; give a number "
                "between 0 and 1."
            )
        if self.val_dir is not None:
            raise ConfigError(
                f"data.val_fraction={self.val_fraction} and data.val_dir={self.val_dir} are both "
                "set; set one of them to null."
            )

    def changed(self, **changes: Any) -> DataOptions:
        """Let images that are named take the place of others.

        Validation images replace those that were held out; training images of another folder
        replace the labelled images too, which would else be read in their place.
        """
        if "val_dir" in changes:
            changes = {"val_fraction": None} | changes
        if changes.get("train_dir", self.train_dir) != self.train_dir:
            changes = {"labelled_dir": None} | changes
        return super().changed(**changes)

    def load(self) -> Datasets:
        """Read the folders."""
        if self.train_dir is None:
            raise DataError(
                "data=imagefolder has no data.train_dir; name the folder of training "
                "images, one sub-folder a class, or images alone to train without labels."
            )
        return load_folders(
            self, self.train_dir, self.val_dir, self.val_fraction, self.labelled_dir
        )
