"""``data=wds``: the images of webdataset tars, for training without labels."""

from __future__ import annotations

from typing import Any

from erssl.data.bands import GREY, RGB
from erssl.data.datasets import Datasets
from erssl.data.options import DataOptions
from erssl.data.registry import register_dataset
from erssl.data.tars import TarImages, shard_files
from erssl.errors import DataError


@register_dataset("wds")
class WebDataset(DataOptions):
    """Shards of the webdataset format: every image in them, decoded by us, without labels.

    Their members are found once, so that any image can be read on its own: which images a step
    sees follows from seed, epoch and step as of image files, on any number of processes and
    wherever a run was resumed. Nothing but images is read, and nothing is unpickled.

    Attributes:
        shards: Paths or https addresses of tars, with braces (``train-{000..127}.tar``), several
            separated by spaces. What is fetched is kept in erssl's cache.
    """

    channel_choices = (GREY, RGB)
    user_sized = True
    needs_val = (
        "give images with labels: data=imagefolder data.train_dir=<folder> data.val_dir=<folder>"
    )

    shards: str | None = None

    def load(self) -> Datasets:
        """Find the images of all shards."""
        if self.shards is None:
            raise DataError(
                "data=wds has no data.shards; name tars, as in "
                "data.shards='photos/train-{000..127}.tar'."
            )
        images: Any = TarImages(shard_files(self.shards), grey=self.channels == GREY)
        return Datasets(images, None, 1, ("",), labelled=False, left_out={"train": images.left_out})
