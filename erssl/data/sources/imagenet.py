"""``data=imagenet``: ImageNet-1k as torchvision reads it."""

from __future__ import annotations

from pathlib import Path

from erssl.data.datasets import Datasets
from erssl.data.folder_datasets import load_folders
from erssl.data.options import FileOptions, Published
from erssl.data.registry import register_dataset
from erssl.errors import DataError


@register_dataset("imagenet")
class ImageNet(FileOptions):
    """ImageNet's folders ``train`` and ``val``, one sub-folder a class.

    Images are left as they are stored, for published protocols read them with torchvision, and
    are not decoded before training, which takes long.

    Attributes:
        root: The folder that holds ``train`` and ``val``.
        train_dir: Training images, in place of ``root/train``.
        val_dir: Validation images, in place of ``root/val``.
    """

    published = Published(1000, 1_281_167, 50_000, 224)
    needs_val = "name a folder of them with data.val_dir"

    verify: bool = False
    exif: bool = False
    root: str | None = None
    train_dir: str | None = None
    val_dir: str | None = None

    def load(self) -> Datasets:
        """Read the folders."""
        if self.root is None and (self.train_dir is None or self.val_dir is None):
            raise DataError(
                "data=imagenet has no data.root; name the folder that holds train and val, "
                "each with one sub-folder a class."
            )
        root = Path(self.root or "")
        return load_folders(self, self.train_dir or root / "train", self.val_dir or root / "val")
