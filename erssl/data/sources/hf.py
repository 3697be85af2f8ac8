"""``data=hf``: data sets of Hugging Face's package ``datasets``."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from erssl.data.bands import GREY, RGB
from erssl.data.datasets import Datasets
from erssl.data.encoded import EncodedImages, drop_undecodable
from erssl.data.options import CheckedOptions
from erssl.data.registry import register_dataset
from erssl.errors import ConfigError, DataError, ErsslWarning, installing, named, printable
from erssl.paths import user_path


@register_dataset("hf")
class HuggingFace(CheckedOptions):
    """Map-style data sets of Hugging Face: of the hub, saved to disk, or folders of Parquet files.

    The image column is the one whose feature is ``Image``, the labels are the column of
    ``ClassLabel``, with its names; without one training is without labels. Images are decoded by
    us, from their bytes.

    Attributes:
        path: Name on the hub, a local folder, or one Parquet file of training images.
        config: Configuration of a data set that has several.
        train_split: Name of the training split.
        val_split: Name of the validation split; ``null`` takes ``validation``, ``val`` or
            ``test``, whichever comes first, or none.
        image_column: The column of images; ``null`` takes the first whose feature is ``Image``.
        label_column: The column of class numbers; ``null`` takes the first of ``ClassLabel``, or
            none.
    """

    channel_choices = (GREY, RGB)
    user_sized = True
    needs_val = "name a split with data.val_split"

    path: str | None = None
    config: str | None = None
    train_split: str = "train"
    val_split: str | None = None
    image_column: str | None = None
    label_column: str | None = None

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
        left_out: dict[str, Counter[str]] = {}
        skipped: list[tuple[str, str]] = []
        images: dict[str, HubImages] = {}
        for split, name in (("train", self.train_split), ("val", val_name)):
            if name is not None:
                left_out[split] = Counter()
                images[split], faults = drop_undecodable(
                    self._images(splits[name]),
                    f"split {name} of data.path={self.path}",
                    self,
                    left_out[split],
                )
                skipped += faults
        train, val = images["train"], images.get("val")
        labelled = train.labelled and (val is None or val.labelled)
        names = train.class_names if labelled else ("",)
        if labelled and val is not None:
            val.renumber(names)
        return Datasets(train, val, len(names), names, labelled, skipped, left_out)

    def _images(self, split: Any) -> HubImages:
        columns = (self.image_column, self.label_column)
        return HubImages(split, str(self.path), self.channels == GREY, *columns)

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
            if (local / "state.json").is_file():  # one split that was saved by itself
                split = datasets.load_from_disk(str(local))
                return {str(split.split or "train"): split}
            if local.is_file() and local.suffix.lower() == ".parquet":
                return {"train": datasets.Dataset.from_parquet(str(local))}
            if local.is_dir():
                return datasets.load_dataset(str(local), self.config)
            with _asked_once(str(self.path)):
                return datasets.load_dataset(str(self.path), self.config)
        except Exception as error:  # the network, the hub and readers raise nearly anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise DataError(
                f"data.path={self.path} cannot be loaded ({reason[:200]}); check its name and the "
                "network, or give a local folder."
            ) from error


@contextlib.contextmanager
def _asked_once(name: str) -> Iterator[None]:
    """Let datasets take what it has kept where the hub cannot be reached.

    It would ask again for half a minute, and print each time.
    """
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    before = datasets.config.HF_HUB_OFFLINE
    try:
        HfApi().dataset_info(name, timeout=10)
    except HfHubHTTPError:  # an answer, whatever it says
        pass
    except Exception:  # of whatever library speaks to the network
        datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


class HubImages(EncodedImages):
    """A split, whose items become images and class numbers.

    Attributes:
        targets: Class numbers (N,); zeros without labels.
        labelled: Whether there are any.
        class_names: In the order of the class numbers.
        fingerprint: What tells that the images have changed.
    """

    def __init__(
        self,
        split: Any,
        where: str,
        grey: bool,
        image_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        """Find the columns.

        Args:
            split: Of ``datasets``.
            where: What its data set is called in messages.
            grey: Whether to give one channel.
            image_column: As of `HuggingFace`.
            label_column: As of `HuggingFace`.

        Raises:
            DataError: If there is no such column of images, or there are no rows.
        """
        import datasets

        kinds = {name: type(feature).__name__ for name, feature in split.features.items()}
        self.where, self.grey = where, grey
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        images = [name for name, kind in kinds.items() if kind == "Image"]
        if not images or not len(split):
            raise DataError(
                f"data.path={where} has no rows or no column of images but {listed}; cast one with "
                "datasets' cast_column(<name>, Image()) and save it to disk."
            )
        self.column = self._column("image", image_column, images, listed)
        labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
        label = self._column("label", label_column, labels, listed) if labels else None
        if label_column is not None and label is None:
            raise DataError(
                f"data.label_column={label_column} is no column of ClassLabel in "
                f"data.path={where}, which has {listed}; cast it with datasets' "
                "class_encode_column and save it to disk."
            )
        self.images = split.cast_column(self.column, datasets.Image(decode=False))
        self.images = self.images.select_columns([self.column])
        self.rows = np.arange(len(split))
        self.targets, self.labelled = np.zeros(len(split), dtype=np.int64), label is not None
        self.class_names: tuple[str, ...] = ("",)
        if label is not None:
            self.class_names = tuple(split.features[label].names)
            numbers = [-1 if n is None else n for n in split[label]]
            self.targets = np.asarray(numbers, dtype=np.int64)
            missing = int((self.targets < 0).sum())
            if 0 < missing < len(self.targets):
                raise DataError(
                    f"{missing} of {len(self.targets)} labels of column {label} of "
                    f"data.path={where} are missing; leave those rows out (datasets' filter)."
                )
            self.labelled = not missing  # splits to be tested often have no label at all: -1
        told = (split._fingerprint, grey)
        self.fingerprint = repr(told if image_column is None else (*told, image_column))

    def _column(self, kind: str, asked: str | None, columns: list[str], listed: str) -> str:
        """The column that was asked for, else the first."""
        if asked is not None and asked not in columns:
            raise DataError(
                f"data.{kind}_column={asked} is not among the columns of data.path={self.where} "
                f"that can be, {', '.join(columns)} (it has {listed}); name one of them."
            )
        if asked is None and len(columns) > 1:
            warnings.warn(
                f"data.path={self.where} has several columns that may be the {kind}s "
                f"({named(map(printable, columns))}); the first is taken, another one by "
                f"data.{kind}_column.",
                ErsslWarning,
                stacklevel=2,
            )
        return asked or columns[0]

    def stored(self, row: int) -> bytes | str | None:
        """The bytes of an image's file, or the path of one."""
        stored = self.images[row][self.column] or {}
        data: bytes | None = stored.get("bytes")
        path: str | None = stored.get("path")
        return data if data is not None else path or None

    def name_of(self, row: int) -> str:
        """Its data set and row."""
        return f"{self.where}, row {row}"

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
