"""Features of images as files that other programs read: arrays with a table, or Parquet."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from erssl.errors import ConfigError, RunError, installing
from erssl.files import replacing, write_rows

COLUMNS = ("file", "label", "class", "split")
_ROWS = 1024  # rows of a group of Parquet


@dataclass(frozen=True)
class ImageRows:
    """Of each image, in the order of the features.

    Attributes:
        files: Its file, or its split and number where images lie in no files of their own.
        labels: Its class number; ``None`` without labels.
        classes: Name of its class; empty without labels.
        splits: ``train`` or ``val``.
    """

    files: list[str]
    labels: list[int | None]
    classes: list[str]
    splits: list[str]


def table_of(path: Path) -> Path | None:
    """The CSV file that goes with a file of features; ``None`` of Parquet, which has it inside."""
    return None if path.suffix == ".parquet" else path.with_suffix(".csv")


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse a file that is there or that cannot be written here, before any work.

    Raises:
        RunError: If it or its table is there and is not to be replaced.
        ConfigError: If it needs a package that is not installed.
    """
    check_new((path, table_of(path)), overwrite)
    if path.suffix == ".parquet":
        _pyarrow()


def check_new(files: Iterable[Path | None], overwrite: bool) -> None:
    """Refuse files that are there.

    Raises:
        RunError: If one of them is a folder, or exists and is not to be replaced.
    """
    for file in files:
        if file is not None and os.path.isdir(file):
            raise RunError(f"output={file} is a folder; name a file.")
        if file is not None and os.path.lexists(file) and not overwrite:
            raise RunError(f"{file} exists; name another output, or set overwrite=true.")


def make_folder_of(path: Path) -> None:
    """Make the folder that a file of the command will lie in.

    Raises:
        RunError: If nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".probe-{os.getpid()}")
        probe.write_bytes(b"erssl")
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"output={path} cannot be written ({error.strerror}); name another place."
        ) from error


def open_parts(path: Path) -> Path:
    """Make the folder in which parts are kept until a file of features is whole.

    Raises:
        RunError: If nothing can be written there.
    """
    parts = path.with_name(f"{path.name}.parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"output={path} cannot be written ({error.strerror}); name another place."
        ) from error
    return parts


def write_features(path: Path, features: npt.NDArray[Any], rows: ImageRows) -> None:
    """Write features and their table, each whole or not at all, the table first.

    Args:
        path: ``.npy``, ``.safetensors`` or ``.parquet``.
        features: (N, d), or (N, T, d) of patches, float32 or float16.
        rows: The images.
    """
    table = table_of(path)
    with replacing(path) as partial:
        if path.suffix == ".npy":
            with partial.open("wb") as file:
                np.save(file, features)
        elif path.suffix == ".safetensors":
            # Not by save_file, which makes the file private to its user.
            partial.write_bytes(save({"features": features}))
        else:
            _write_parquet(partial, features, rows)
        if table is not None:
            columns = (rows.files, rows.labels, rows.classes, rows.splits)
            write_rows(table, [COLUMNS, *zip(*columns, strict=True)])


def _write_parquet(path: Path, features: npt.NDArray[Any], rows: ImageRows) -> None:
    pa, parquet = _pyarrow()
    writer = None
    with path.open("wb") as file:
        for start in range(0, len(features), _ROWS):
            block = slice(start, start + _ROWS)
            table = pa.table(
                {
                    "file": pa.array(_unicode(rows.files[block]), pa.string()),
                    "label": pa.array(rows.labels[block], pa.int64()),
                    "class": pa.array(_unicode(rows.classes[block]), pa.string()),
                    "split": pa.array(rows.splits[block], pa.string()),
                    "features": _lists(pa, features[block]),
                }
            )
            if writer is None:
                writer = parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()


def _unicode(names: list[str]) -> list[str]:
    """Names as a CSV file has them: bytes that are no UTF-8 are escaped."""
    return [name.encode(errors="backslashreplace").decode() for name in names]


def _lists(pa: Any, block: npt.NDArray[Any]) -> Any:
    """An array (n, d) as n lists of d numbers; (n, T, d) as n lists of T lists."""
    values = pa.array(block.reshape(-1))
    for size in reversed(block.shape[1:]):
        offsets = np.arange(0, len(values) + 1, size, dtype=np.int32)
        values = pa.ListArray.from_arrays(pa.array(offsets), values)
    return values


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(
            f"output=<.parquet> needs pyarrow; {installing('parquet')}, or write .npy."
        ) from error
