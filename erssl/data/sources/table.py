"""``data=table``: image files that a CSV or Parquet table lists."""

from __future__ import annotations

import csv
import math
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from erssl.data.datasets import Datasets
from erssl.data.folders import Folder, ImageFiles, drop_unreadable
from erssl.data.options import DataOptions, FileOptions
from erssl.data.registry import register_dataset
from erssl.errors import ConfigError, DataError, ErsslWarning, installing, named, printable
from erssl.paths import user_path

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
_SPLITS |= {"test": "val"}


@register_dataset("table")
class Table(FileOptions):
    """Image files that a table lists, a row each.

    Classes are numbered by their labels in order: numbers as numbers (2 before 10), anything else
    by its text.

    Attributes:
        file: The table, ``.csv`` or ``.parquet``.
        val_file: A second one with the validation images, of the same columns.
        path_column: Paths of the images; relative ones begin at the table's folder.
        label_column: Labels, names or numbers; where there is no such column, or it is ``null``,
            training is without labels.
        split_column: Which of the images of ``file`` are for training (``train``) and which for
            validation (``val``, ``valid``, ``validation`` or ``test``); where there is no such
            column, or it is ``null``, all are for training.
    """

    user_sized = True
    needs_val = "name a table of them with data.val_file, or mark them in data.split_column"

    file: str | None = None
    val_file: str | None = None
    path_column: str = "path"
    label_column: str | None = "label"
    split_column: str | None = "split"

    def changed(self, **changes: Any) -> DataOptions:
        """Let another table replace the validation images of the one before it too."""
        if changes.get("file", self.file) != self.file:
            changes = {"val_file": None} | changes
        return super().changed(**changes)

    def load(self) -> Datasets:
        """Read the table, and look for its files."""
        if self.file is None:
            raise DataError("data=table has no data.file; name a .csv or .parquet file.")
        rows = {"train": self._rows("data.file", self.file)}
        if self.val_file is not None:
            rows["val"] = self._rows("data.val_file", self.val_file)
        elif self.split_column and any(self.split_column in row for row in rows["train"]):
            rows = self._split(rows["train"])
        labels = self._labels(rows)
        names = sorted(set(labels["train"] + labels["val"]), key=_in_order) if labels else [""]
        places = {name: number for number, name in enumerate(names)}
        skipped: list[tuple[str, str]] = []
        splits: dict[str, Folder] = {}
        for split, table in rows.items():
            numbers = [places[label] for label in labels[split]] if labels else [0] * len(table)
            splits[split], faults = self._files(split, table, numbers, tuple(names))
            skipped += faults
        val = splits.get("val")
        return Datasets(
            train=ImageFiles(splits["train"].samples, self.exif, self.channels),
            val=None if val is None else ImageFiles(val.samples, self.exif, self.channels),
            num_classes=len(names),
            class_names=tuple(printable(name) for name in names),
            labelled=bool(labels),
            skipped=skipped,
            left_out={split: folder.left_out for split, folder in splits.items()},
            several_pages={split: len(s.several_pages) for split, s in splits.items()},
            further_channels={split: len(s.further_channels) for split, s in splits.items()},
        )

    def _rows(self, key: str, file: str) -> list[dict[str, str]]:
        """The rows of a table, where no image has two labels."""
        rows = _rows(key, file, self.path_column)
        header = 2 if user_path(file).suffix.lower() == ".csv" else 1
        label = str(self.label_column) if self.label_column else None
        first: dict[str, int] = {}
        repeated = 0
        for number, row in enumerate(rows if self.path_column in rows[0] else []):
            image = os.path.normpath(row[self.path_column].strip())
            earlier = first.setdefault(image, number)
            if earlier == number:
                continue
            repeated += 1
            labels = [rows[i].get(label, "").strip() if label else "" for i in (earlier, number)]
            if labels[0] != labels[1]:
                raise DataError(
                    f"{key}={file} lists {printable(image)} in row {earlier + header} with the "
                    f"label {labels[0]!r} and in row {number + header} with {labels[1]!r}; leave "
                    "one out."
                )
        if repeated:
            warnings.warn(
                f"{key}={file} lists {repeated} images more than once; each counts as often as it "
                "is listed.",
                ErsslWarning,
                stacklevel=3,
            )
        return rows

    def _split(self, rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
        splits: dict[str, list[dict[str, str]]] = {"train": [], "val": []}
        for row in rows:
            said = row.get(str(self.split_column), "").strip().lower()
            if said not in _SPLITS:
                raise DataError(
                    f"data.file={self.file} has {said!r} in its column {self.split_column}; write "
                    "train or val, or set data.split_column=null."
                )
            splits[_SPLITS[said]].append(row)
        if not splits["train"]:
            raise DataError(f"data.file={self.file} has no row of split train; add some.")
        return splits if splits["val"] else {"train": splits["train"]}

    def _labels(self, rows: Mapping[str, list[dict[str, str]]]) -> dict[str, list[str]]:
        """The labels of each split; none where there is no column of them."""
        column = self.label_column
        has = {split: bool(column) and str(column) in table[0] for split, table in rows.items()}
        if not any(has.values()):
            return {}
        labels: dict[str, list[str]] = {"train": [], "val": []}
        for split, table in rows.items():
            labels[split] = [row.get(str(column), "").strip() for row in table]
            if empty := sum(not label for label in labels[split]):
                raise DataError(
                    f"{empty} of the {len(table)} rows of split {split} have no {column}; fill "
                    "them, or set data.label_column=null to train without labels."
                )
        if unknown := sorted(set(labels["val"]) - set(labels["train"])):
            raise DataError(
                f"The validation images have {len(unknown)} labels that no training image has "
                f"({named(map(printable, unknown))}); add training images of them."
            )
        return labels

    def _files(
        self, split: str, rows: Sequence[Mapping[str, str]], numbers: list[int], names: Any
    ) -> tuple[Folder, list[tuple[str, str]]]:
        """The files of a split that are there and can be read, and those that are not."""
        own = self.val_file if split == "val" and self.val_file else self.file
        key = "data.val_file" if split == "val" and self.val_file else "data.file"
        if self.path_column not in rows[0]:
            raise DataError(
                f"{key}={own} has no column {self.path_column} but {', '.join(rows[0])}; name that "
                "of the images' paths with data.path_column."
            )
        below = user_path(str(own)).parent
        paths = [os.path.join(below, row[self.path_column].strip()) for row in rows]
        missing = [path for path in paths if not os.path.isfile(path)]
        if missing and (self.on_error == "raise" or len(missing) == len(paths)):
            raise DataError(
                f"{len(missing)} of the {len(paths)} files of {key}={own} "
                f"{'is' if len(missing) == 1 else 'are'} not there "
                f"({named(map(printable, missing))}); mend the paths, which begin at its folder, "
                "or set data.on_error=skip to leave them out."
            )
        gone = set(missing)
        samples = tuple(s for s in zip(paths, numbers, strict=True) if s[0] not in gone)
        left_out = Counter(missing=len(missing))
        folder = Folder(key, user_path(str(own)), samples, names, names != ("",), left_out)
        faults = [(path, "no such file") for path in missing]
        if self.verify:
            folder, unreadable = drop_unreadable(
                replace(folder, path=below),
                self.on_error,
                self.workers,
                self.channels,
                self.sampled,
            )
            faults += unreadable
        return folder, faults


def _in_order(label: str) -> tuple[int, float, str]:
    try:
        number = float(label)
    except ValueError:
        return 1, 0.0, label
    # "nan" has no place among numbers, and "inf" is as good a name
    return (0, number, label) if math.isfinite(number) else (1, 0.0, label)


def _rows(key: str, file: str, path_column: str) -> list[dict[str, str]]:
    """The rows of a table as texts by column."""
    path = user_path(file)
    if not path.is_file():
        reason = "does not exist"
        if path.is_dir():
            reason = "is a folder, not a table"
        elif "://" in file:
            reason = "is an address, which is not read; download the table"
        raise DataError(f"{key}={file} {reason}; name a .csv or .parquet file.")
    reader = {".csv": _of_csv, ".parquet": _of_parquet}.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{key}={file} is neither .csv nor .parquet; name such a file.")
    try:
        rows = reader(path, path_column)
    except ConfigError:
        raise
    except Exception as error:  # readers raise nearly anything on damaged files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{key}={file} cannot be read as a table ({reason}).") from error
    if not rows:
        raise DataError(f"{key}={file} has no rows; list images in it.")
    return rows


def _of_csv(path: Path, _: str) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows = list(reader)
        columns = reader.fieldnames or []
    if len(set(columns)) < len(columns):
        twice = [name for name, count in Counter(columns).items() if count > 1]
        raise ValueError(f"it has several columns of the name {named(map(repr, twice))}")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has not as many fields as there are columns")
    return rows


def _of_parquet(path: Path, path_column: str) -> list[dict[str, str]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            f"{path} needs pyarrow, which is not installed; {installing('parquet')}."
        ) from error
    table = parquet.read_table(path)
    columns = table.to_pydict()
    if path_column in columns:
        others = (v for v in columns[path_column] if v is not None and not isinstance(v, str))
        if next(others, None) is not None:
            kind = table.schema.field(path_column).type
            raise ValueError(f"its column {path_column} is of the type {kind}, not text")
    plain = {
        name: ["" if value is None else str(value) for value in values]
        for name, values in columns.items()
    }
    return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
