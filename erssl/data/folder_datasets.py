"""The data sets that folders of images make: training and validation split, checked."""

from __future__ import annotations

from pathlib import Path

from erssl.data.datasets import Datasets
from erssl.data.folders import (
    ImageFiles,
    check_same_classes,
    drop_unreadable,
    hold_out,
    scan_folder,
)
from erssl.data.options import FileOptions


def load_folders(
    options: FileOptions,
    train_dir: str | Path,
    val_dir: str | Path | None = None,
    val_fraction: float | None = None,
) -> Datasets:
    """Read folders of images.

    Args:
        options: How unreadable files and EXIF orientations are dealt with.
        train_dir: Training images, one sub-folder a class, or images alone.
        val_dir: Validation images in the same way.
        val_fraction: Share of each class of the training images that is held out as validation
            images.

    Returns:
        Both splits without any transform.

    Raises:
        DataError: If a folder cannot be used, or the two do not fit together.
    """
    channels = options.channels
    train = scan_folder("data.train_dir", train_dir, channels)
    val = scan_folder("data.val_dir", val_dir, channels) if val_dir is not None else None
    if val is not None:
        check_same_classes(train, val)
    skipped: list[tuple[str, str]] = []
    if options.verify:
        train, faults = drop_unreadable(train, options.on_error, options.workers, channels)
        skipped += faults
        if val is not None:
            val, faults = drop_unreadable(val, options.on_error, options.workers, channels)
            skipped += faults
    if val_fraction is not None:
        train, val = hold_out(train, val_fraction)
    return Datasets(
        train=ImageFiles(train.samples, options.exif, channels),
        val=ImageFiles(val.samples, options.exif, channels) if val is not None else None,
        num_classes=len(train.class_names),
        class_names=train.class_names,
        labelled=train.labelled,
        skipped=skipped,
        left_out={"train": train.left_out} | ({"val": val.left_out} if val is not None else {}),
    )
