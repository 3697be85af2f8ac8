"""The data sets that folders of images make: training and validation split, checked."""

from __future__ import annotations

from pathlib import Path

from erssl.data.datasets import Datasets
from erssl.data.folders import (
    Folder,
    ImageFiles,
    check_same_classes,
    drop_unreadable,
    hold_out,
    scan_folder,
    scan_unlabelled,
)
from erssl.data.options import FileOptions


def load_folders(
    options: FileOptions,
    train_dir: str | Path,
    val_dir: str | Path | None = None,
    val_fraction: float | None = None,
    labelled_dir: str | Path | None = None,
) -> Datasets:
    """Read folders of images.

    Args:
        options: How unreadable files and EXIF orientations are dealt with.
        train_dir: Training images, one sub-folder a class, or images alone.
        val_dir: Validation images in the same way.
        val_fraction: Share of each class of the training images that is held out as validation
            images.
        labelled_dir: Labelled images, for accuracy; those of ``train_dir`` then have no labels.

    Returns:
        Both splits without any transform.

    Raises:
        DataError: If a folder cannot be used, or the two do not fit together.
    """
    channels = options.channels
    splits = {"train": _scan(options, "train_dir", train_dir, labelled_dir is None)}
    if labelled_dir is not None:
        splits["labelled"] = _scan(options, "labelled_dir", labelled_dir)
    if val_dir is not None:
        splits["val"] = _scan(options, "val_dir", val_dir)
    known = "train" if labelled_dir is None else "labelled"
    if "val" in splits:
        check_same_classes(splits[known], splits["val"])
    skipped: list[tuple[str, str]] = []
    if options.verify:
        for split, folder in splits.items():
            splits[split], faults = drop_unreadable(
                folder, options.on_error, options.workers, channels, options.sampled
            )
            skipped += faults
    if val_fraction is not None:
        splits[known], splits["val"] = hold_out(splits[known], val_fraction)
    files = {n: ImageFiles(s.samples, options.exif, channels) for n, s in splits.items()}
    return Datasets(
        train=files["train"],
        val=files.get("val"),
        num_classes=len(splits[known].class_names),
        class_names=splits[known].class_names,
        labelled=splits[known].labelled,
        skipped=skipped,
        left_out={split: folder.left_out for split, folder in splits.items()},
        several_pages={split: len(s.several_pages) for split, s in splits.items()},
        further_channels={split: len(s.further_channels) for split, s in splits.items()},
        labelled_train=files.get("labelled"),
    )


def _scan(options: FileOptions, key: str, path: str | Path, classes: bool = True) -> Folder:
    scan = scan_folder if classes else scan_unlabelled
    return scan(f"data.{key}", path, options.channels)
