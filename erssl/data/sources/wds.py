"""``data=wds``: the images of webdataset tars, for training without labels."""

from __future__ import annotations

from erssl.data.bands import GREY, RGB
from erssl.data.datasets import Datasets
from erssl.data.encoded import drop_undecodable
from erssl.data.options import CheckedOptions
from erssl.data.registry import register_dataset
from erssl.data.shards import shard_files
from erssl.data.tars import TarImages
from erssl.errors import DataError


@register_dataset("wds")
class WebDataset(CheckedOptions):
    """Shards of the webdataset format: every image in them, decoded by us, without labels.

    Their members are listed once, so that any image can be read on its own: which images a step
    sees follows from seed, epoch and step as of image files, on any number of processes and
    wherever a run was resumed. Nothing but images is read, and nothing is unpickled.

    Attributes:
        shards: Paths or https addresses of tars, with braces (``train-{000..127}.tar``), several
            separated by spaces. What is fetched is kept in erssl's cache.
        image_key: What the names of images have after their first dot, such as ``jpg`` or
            ``seg.png``; ``null`` takes every image of a tar.
    """

    channel_choices = (GREY, RGB)
    user_sized = True
    needs_val = (
        "give images with labels: data=imagefolder data.train_dir=<folder> data.val_dir=<folder>"
    )

    shards: str | None = None
    image_key: str | None = None

    def load(self) -> Datasets:
        """Find the images of all shards."""
        if self.shards is None:
            raise DataError(
                "data=wds has no data.shards; name tars, as in "
                "data.shards='photos/train-{000..127}.tar'."
            )
        images = TarImages(shard_files(self.shards), self.channels == GREY, self.image_key)
        left_out = images.left_out
        images, skipped = drop_undecodable(images, f"data.shards={self.shards}", self, left_out)
        return Datasets(
            images, None, 1, ("",), labelled=False, skipped=skipped, left_out={"train": left_out}
        )
