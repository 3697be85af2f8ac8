"""The images of a command that works on each of them: which splits, and what each is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from erssl.data import Datasets, labels_of
from erssl.errors import DataError, named
from erssl.protocols.header import image_lines
from erssl.run.console import say
from erssl.run.feature_files import ImageRows

Splits = Sequence[tuple[str, Any]]
"""Name and images of each split, in the order in which they are written."""


def chosen_splits(datasets: Datasets, split: str) -> Splits:
    """The splits that ``split=`` names: ``train``, ``val``, or ``all``, training images first.

    Raises:
        DataError: If there is no such split.
    """
    there = {"train": datasets.train, "val": datasets.val}
    if split != "all" and there[split] is None:
        raise DataError(
            f"split={split} but the data have no validation images; leave split out, or name a "
            "folder of them (data.val_dir)."
        )
    return [(name, each) for name, each in there.items() if each and split in (name, "all")]


def image_rows(splits: Splits, datasets: Datasets) -> ImageRows:
    """File, class and split of each image, without reading one."""
    labels = [int(label) for _, images in splits for label in labels_of(images)]
    names = datasets.class_names
    return ImageRows(
        files=[file for split, images in splits for file in _files(split, images)],
        labels=list(labels) if datasets.labelled else [None] * len(labels),
        classes=[names[label] if datasets.labelled else "" for label in labels],
        splits=[split for split, images in splits for _ in range(len(images))],
    )


def _files(split: str, images: Any) -> list[str]:
    """The files of images; split and number where they lie in no files of their own."""
    samples = getattr(images, "samples", None)
    if samples is None:
        return [f"{split}/{number}" for number in range(len(images))]
    return [str(path) for path, _ in samples]


def say_images(datasets: Datasets, console: Console) -> None:
    """Say how many images there are, and what is left out and why."""
    for line in image_lines(datasets):
        say(console, line)
    if datasets.skipped:
        listed = named(f"{path}: {reason}" for path, reason in datasets.skipped)
        say(console, f"Images that cannot be read: {len(datasets.skipped)} ({listed})")
