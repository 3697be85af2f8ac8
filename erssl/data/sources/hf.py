"""``data=hf``: data sets of Hugging Face's package ``datasets``."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from erssl.data.bands import GREY, RGB
from erssl.data.datasets import Datasets
from erssl.data.images import decode_image, load_image
from erssl.data.options import DataOptions
from erssl.data.registry import register_dataset
from erssl.errors import ConfigError, DataError, installing, named, printable
from erssl.paths import user_path


@register_dataset("hf")
class HuggingFace(DataOptions):
    """Map-style data sets of Hugging Face: of the hub, saved to disk, or folders of Parquet files.

    The image column is the one whose feature is ``Image``, the labels are the column of
    ``ClassLabel``, with its names; without one training is without labels. Images are decoded by
    us, from their bytes.

    Attributes:
        path: Name on the hub, or a local folder.
        config: Configuration of a data set that has several.
        train_split: Name of the training split.
        val_split: Name of the validation split; ``null`` takes ``validation``, ``val`` or
            ``test``, whichever comes first, or none.
    """

    channel_choices = (GREY, RGB)
    user_sized = True
    needs_val = "name a split with data.val_split"

    path: str | None = None
    config: str | None = None
    train_split: str = "train"
    val_split: str | None = None

    def load(self) -> Datasets:
        """Load both splits."""
        if self.path is None:
            raise DataError("data=hf has no data.path; give a name on the hub or a folder.")
        splits = self._splits()
        if self.train_split not in splits:
            raise DataError(
                f"data.path={self.path} has no split {self.train_split} but {', '.join(splits)}; "
                "name one with data.train_split."
            )
        usual = (name for name in ("validation", "val", "test") if name in splits)
        val_name = self.val_split or next((n for n in usual if n != self.train_split), None)
        if val_name is not None and val_name not in splits:
            raise DataError(
                f"data.path={self.path} has no split {val_name} but {', '.join(splits)}; name one "
                "with data.val_split."
            )
        grey = self.channels == GREY
        train = HubImages(splits[self.train_split], self.path, grey)
        val = None if val_name is None else HubImages(splits[val_name], self.path, grey)
        labelled = train.labelled and (val is None or val.labelled)
        names = train.class_names if labelled else ("",)
        if labelled and val is not None:
            val.renumber(names)
        return Datasets(train, val, len(names), names, labelled)

    def _splits(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise ConfigError(
                f"data=hf needs datasets, which is not installed; {installing('hf')}."
            ) from error
        local = user_path(str(self.path))
        try:
            if (local / "dataset_dict.json").is_file():
                return datasets.load_from_disk(str(local))
            where = str(local) if local.is_dir() else str(self.path)
            return datasets.load_dataset(where, self.config)
        except Exception as error:  # the network, the hub and readers raise nearly anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise DataError(
                f"data.path={self.path} cannot be loaded ({reason[:200]}); check its name and the "
                "network, or give a local folder."
            ) from error


class HubImages(Dataset[tuple[Image.Image, int]]):
    """A split, whose items become images and class numbers.

    Attributes:
        targets: Class numbers (N,); zeros without labels.
        labelled: Whether there are any.
        class_names: In the order of the class numbers.
        fingerprint: What tells that the images have changed.
    """

    def __init__(self, split: Any, where: str, grey: bool) -> None:
        """Find the columns.

        Raises:
            DataError: If there is no column of images, or there are no rows.
        """
        import datasets

        kinds = {name: type(feature).__name__ for name, feature in split.features.items()}
        images = [name for name, kind in kinds.items() if kind == "Image"]
        labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
        if not images or not len(split):
            listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            raise DataError(
                f"data.path={where} has no rows or no column of images but {listed}; cast one with "
                "datasets' cast_column(<name>, Image()) and save it to disk."
            )
        self.column = images[0]
        self.images = split.cast_column(self.column, datasets.Image(decode=False))
        self.where, self.grey, self.labelled = where, grey, bool(labels)
        self.targets = np.zeros(len(split), dtype=np.int64)
        self.class_names: tuple[str, ...] = ("",)
        if labels:
            self.class_names = tuple(split.features[labels[0]].names)
            numbers = [-1 if n is None else n for n in split[labels[0]]]
            self.targets = np.asarray(numbers, dtype=np.int64)
            self.labelled = bool((self.targets >= 0).all())  # test splits often have -1
        self.fingerprint = repr((split._fingerprint, grey))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.targets)

    def renumber(self, names: tuple[str, ...]) -> None:
        """Number the classes by their places among names, where the split has another order.

        Args:
            names: Of the classes of the training images.

        Raises:
            DataError: If the split has classes of other names.
        """
        if self.class_names == names:
            return
        own, others = set(self.class_names), set(names)
        if own != others:
            raise DataError(
                f"The splits of data.path={self.where} have different classes (in one alone: "
                f"{named(map(printable, sorted(own ^ others)))}); cast their columns of labels to "
                "one ClassLabel, or choose other splits."
            )
        places = np.array([names.index(name) for name in self.class_names], dtype=np.int64)
        self.targets = places[self.targets]
        self.class_names = names

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Read one image.

        Raises:
            DataError: If it cannot be read.
        """
        stored = self.images[index][self.column] or {}
        target = int(self.targets[index])
        if stored.get("bytes") is not None:
            name = f"{self.where}, row {index}"
            return decode_image(stored["bytes"], name, grey=self.grey), target
        if not stored.get("path"):
            raise DataError(f"data.path={self.where} has no image in row {index}; leave it out.")
        return load_image(stored["path"], upright=True, grey=self.grey), target
