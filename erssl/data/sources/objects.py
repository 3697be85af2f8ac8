"""``data=object``: what a Python program gives as objects (:mod:`erssl.data.given`)."""

from __future__ import annotations

from erssl.data.datasets import Datasets
from erssl.data.given import datasets_given
from erssl.data.options import DataOptions
from erssl.data.registry import register_dataset


@register_dataset("object")
class ObjectData(DataOptions):
    """A data set of a user's program, whose images are resized to ``image_size``."""

    channel_choices = ()
    needs_val = "give data=(<training images>, <validation images>)"

    def load(self) -> Datasets:
        """Give what was given."""
        return datasets_given(self.channels)
