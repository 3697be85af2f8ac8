"""Image folders: finding the images and classes, and leaving out what cannot be read."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from erssl.data.bands import ARRAY, GREY, RGB, has_pixels, load_bands
from erssl.data.checked_files import CheckedFiles
from erssl.data.file_list import (
    FileList,
    FileListBuilder,
    Paths,
    Samples,
    chosen,
    targets_of,
)
from erssl.data.formats import image_extensions
from erssl.data.images import find_unreadable, load_image, warn_of_pages
from erssl.data.left_out import LeftOut
from erssl.data.listing import add_images_below, images_among, is_hidden, split_entries
from erssl.data.phases import say_phase
from erssl.errors import DataError, ErsslWarning, counted, named, printable
from erssl.paths import user_path

_MANY = 8192  # images whose check is worth being kept


def read_image(path: str | Path, channels: int = RGB, upright: bool = False) -> Any:
    """Read an image file: one of Pillow's, of grey or RGB, or a tensor (C, H, W).

    Raises:
        DataError: If it cannot be read, or has other channels.
    """
    if has_pixels(channels):
        return load_image(path, upright=upright, grey=channels == GREY)
    return load_bands(path, channels, upright=upright)


class ImageFiles(Dataset[tuple[Any, int]]):
    """Image files and their class numbers, read when asked for.

    Attributes:
        samples: ``(path, class number)`` of each image.
        upright: Whether images are turned as their EXIF orientation says.
        channels: Of the images: 1 for grey, 3 for RGB; others are tensors (C, H, W).
    """

    def __init__(self, samples: Samples, upright: bool = False, channels: int = RGB) -> None:
        """Take ``(path, class number)`` of each image, and how they are read."""
        self.samples: Samples = samples if isinstance(samples, FileList) else list(samples)
        self.upright = upright
        self.channels = channels

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Read one image.

        Raises:
            DataError: If the file cannot be read.
        """
        path, target = self.samples[index]
        return read_image(path, self.channels, self.upright), target


@dataclass(frozen=True)
class Folder:
    """The images of one split.

    Attributes:
        key: The option that named the folder, for messages.
        path: The folder.
        samples: ``(path, class number)`` of each image.
        class_names: Names of the classes in order; one empty name if there are no labels.
        labelled: Whether the folder has class sub-folders.
        left_out: Number of files that are no image of it by reason; a hidden folder counts as one.
        several_pages: Paths of images with several pages or frames, of which the first is read;
            known once all have been decoded.
        further_channels: Paths of TIFF images with more than three channels, of which the first
            three are read; likewise.
    """

    key: str
    path: Path
    samples: Samples
    class_names: tuple[str, ...]
    labelled: bool
    left_out: Counter[str] = field(default_factory=Counter)
    several_pages: tuple[str, ...] = ()
    further_channels: tuple[str, ...] = ()


def scan_folder(key: str, path: str | Path, channels: int = RGB) -> Folder:
    """Find the images of a folder: one sub-folder a class, else unlabelled images.

    Hidden files and folders are passed over, at any depth, and so are files that have no image's
    extension (:func:`erssl.data.formats.image_extensions`).

    Args:
        key: The option that named the folder, for messages.
        path: The folder.
        channels: Of the images; arrays (``.npy``) are images where Pillow has none of so many.

    Returns:
        The images, sorted by class and path.

    Raises:
        DataError: If the folder does not exist, is a file, cannot be read, or holds no images
            in it or in one of its class folders.
    """
    folder = _existing(key, path)
    inner, others = _entries(key, path, folder)
    class_names = [name for name in inner if not is_hidden(name)]
    left_out = LeftOut()
    extensions = _extensions(channels)
    hidden = [name for name in inner if is_hidden(name)]
    loose = images_among(str(folder), sorted(others + hidden), left_out, extensions)
    builder = FileListBuilder()
    if not class_names and loose:
        left_out.warn(f"{key}={path}")
        builder.add(str(folder), loose, 0)
        return Folder(key, folder, builder.build(), ("",), labelled=False, left_out=left_out.counts)
    empty = []
    for number, name in enumerate(class_names):
        if not add_images_below(str(folder / name), number, builder, left_out, extensions):
            empty.append(name)
    samples = builder.build()
    if not samples:
        raise DataError(_no_images(f"{key}={path}", extensions, left_out, _EXPECTED))
    if empty:
        unnamed = f", and {left_out.advice()}" if left_out.unnamed else ""
        raise DataError(
            f"{key}={path} has {len(empty)} of {len(class_names)} class folders without images "
            f"({named(empty)}){unnamed}; fill or remove them."
        )
    left_out.warn(f"{key}={path}")
    if loose:
        warnings.warn(
            f"{key}={path} has class folders, so the {counted(len(loose), 'image')} beside them "
            f"{'is' if len(loose) == 1 else 'are'} left out ({named(loose)}).",
            ErsslWarning,
            stacklevel=2,
        )
        left_out.counts["beside the class folders"] = len(loose)
    names = tuple(map(printable, class_names))
    return Folder(key, folder, samples, names, labelled=True, left_out=left_out.counts)


def scan_unlabelled(key: str, path: str | Path, channels: int = RGB) -> Folder:
    """Find all images of a folder at any depth; its sub-folders are no classes.

    Args:
        key: As of :func:`scan_folder`.
        path: As of :func:`scan_folder`.
        channels: As of :func:`scan_folder`.

    Raises:
        DataError: If the folder cannot be used, or holds no images.
    """
    folder = _existing(key, path)
    _entries(key, path, folder)
    left_out = LeftOut()
    extensions = _extensions(channels)
    builder = FileListBuilder()
    if not add_images_below(str(folder), 0, builder, left_out, extensions):
        raise DataError(_no_images(f"{key}={path}", extensions, left_out, "name another"))
    left_out.warn(f"{key}={path}")
    return Folder(key, folder, builder.build(), ("",), labelled=False, left_out=left_out.counts)


def _existing(key: str, path: str | Path) -> Path:
    """A folder that is there."""
    folder = user_path(path)
    if not folder.exists():
        raise DataError(f"{key}={path} does not exist; {_EXPECTED}.")
    if not folder.is_dir():
        raise DataError(f"{key}={path} is a file, not a folder; {_EXPECTED}.")
    return folder


def _entries(key: str, path: str | Path, folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders in a folder, sorted, and of all else."""
    try:
        inner, others = split_entries(str(folder))
    except OSError as error:
        raise DataError(f"{key}={path} cannot be read ({error.strerror}); {_EXPECTED}.") from error
    return sorted(inner), others


def check_same_classes(train: Folder, val: Folder) -> None:
    """Make sure that class numbers mean the same in both splits.

    Raises:
        DataError: If one has labels and the other none, or the classes differ.
    """
    if train.labelled != val.labelled:
        flat, deep = (val, train) if train.labelled else (train, val)
        raise DataError(
            f"{flat.key}={flat.path} has no class folders but {deep.key}={deep.path} has "
            f"{len(deep.class_names)}; give both the same class folders, or leave data.val_dir out."
        )
    missing = sorted(set(train.class_names) - set(val.class_names))
    extra = sorted(set(val.class_names) - set(train.class_names))
    if missing or extra:
        parts = [f"lacks {len(missing)} ({named(missing)})"] if missing else []
        parts += [f"has {len(extra)} others ({named(extra)})"] if extra else []
        raise DataError(
            f"{val.key}={val.path} does not have the {len(train.class_names)} classes of "
            f"{train.key}={train.path}: it {' and '.join(parts)}; give both folders the same class "
            "folders."
        )


def hold_out(folder: Folder, fraction: float) -> tuple[Folder, Folder]:
    """Split a folder into training and validation images, every class in the same share.

    Which images are held out follows from their names below the folder alone: neither from a seed
    nor from where the folder lies, and hardly from what is added to it.

    Args:
        folder: The images.
        fraction: Share that is held out; of a class of two images or more at least one image, and
            at least one stays.

    Returns:
        Training and validation images, each in the order of ``folder``.

    Raises:
        DataError: If no class has two images.
    """
    samples, targets = folder.samples, targets_of(folder.samples)
    held = np.zeros(len(samples), dtype=bool)
    order = np.argsort(targets, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(targets[order])) + 1):
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        ranked = sorted(members.tolist(), key=lambda i: _rank(samples[i][0], folder.path))
        held[ranked[:count]] = True
    if not held.any():
        raise DataError(
            f"data.val_fraction={fraction} needs a class with two images in "
            f"{folder.key}={folder.path}; add images, or name others with data.val_dir."
        )
    train, val = (_part(folder, np.flatnonzero(part)) for part in (~held, held))
    return train, replace(val, left_out=Counter())


def _part(folder: Folder, places: npt.NDArray[np.int64]) -> Folder:
    """The images at some places of a folder, and what was said of those."""
    samples = chosen(folder.samples, places)
    several, further = folder.several_pages, folder.further_channels
    if several or further:
        there = {path for path, _ in samples}
        several = tuple(path for path in several if path in there)
        further = tuple(path for path in further if path in there)
    return replace(folder, samples=samples, several_pages=several, further_channels=further)


def _rank(path: str, below: Path) -> bytes:
    name = os.path.relpath(path, below).replace(os.sep, "/")
    return hashlib.sha256(os.fsencode(name)).digest()


def drop_unreadable(
    folder: Folder, on_error: str, workers: int, channels: int = RGB, sampled: int | None = None
) -> tuple[Folder, list[tuple[str, str]]]:
    """Decode every image and leave out, or refuse, those that fail.

    Of more than 8,192 images it is kept in ``$ERSSL_HOME`` which were decoded, by their paths,
    sizes and times of change, so that the check goes on after a kill and is not done twice.

    Args:
        folder: The images.
        on_error: ``"raise"`` or ``"skip"``.
        workers: Threads to decode with.
        channels: Of the images.
        sampled: Number of images to decode, spread evenly over the folder; ``None`` for all.

    Returns:
        The folder with readable images only, and ``(path, reason)`` of the others.

    Raises:
        DataError: If there are unreadable images and ``on_error`` is ``"raise"``, or if no
            image is readable.
    """
    read = None if has_pixels(channels) else partial(read_image, channels=channels)
    paths = Paths(folder.samples)
    count = len(paths) if sampled is None else min(sampled, len(paths))
    say_phase(f"Decoding check: {counted(count, 'image')} of {folder.key}={folder.path}.")
    if sampled is not None and sampled < len(paths):
        return _sampled(
            folder, paths, sampled, partial(find_unreadable, workers=workers, read=read)
        )
    checked = CheckedFiles(folder.path, channels) if len(paths) > _MANY else None
    several: list[str] = []
    further: list[str] = []
    faults = find_unreadable(paths, workers, read, several, checked, further)
    if several:
        warn_of_pages()  # here, so that no loader process does
    folder = replace(folder, several_pages=tuple(several), further_channels=tuple(further))
    if not faults:
        return folder, []
    listed = named(f"{os.path.relpath(path, folder.path)}: {reason}" for path, reason in faults)
    among = f"{len(faults)} of the {len(folder.samples)} images in {folder.key}={folder.path}"
    if len(faults) == len(folder.samples):
        raise DataError(
            f"{among} cannot be read ({listed}), which leaves none; give a folder with readable "
            "images."
        )
    if on_error == "raise":
        raise DataError(
            f"{among} cannot be read ({listed}); repair or remove them, or set data.on_error=skip "
            "to leave them out."
        )
    bad = {path for path, _ in faults}
    kept = chosen(
        folder.samples,
        np.asarray([i for i, (path, _) in enumerate(folder.samples) if path not in bad]),
    )
    left_out = folder.left_out + Counter(unreadable=len(faults))
    return replace(folder, samples=kept, left_out=left_out), faults


def _sampled(
    folder: Folder,
    paths: Paths,
    count: int,
    faults_of: Callable[[list[str]], list[tuple[str, str]]],
) -> tuple[Folder, list[tuple[str, str]]]:
    """The folder as it is, once some of its images were decoded without a fault."""
    places = np.linspace(0, len(paths) - 1, count).round().astype(int).tolist()
    if faults := faults_of([paths[place] for place in places]):
        listed = named(f"{os.path.relpath(path, folder.path)}: {reason}" for path, reason in faults)
        raise DataError(
            f"{len(faults)} of {count} images that were tried of the {len(paths)} in "
            f"{folder.key}={folder.path} cannot be read ({listed}); repair or remove them, or set "
            "data.verify=true and data.on_error=skip to find and leave out all."
        )
    return folder, []


def _extensions(channels: int) -> tuple[str, ...]:
    own = image_extensions()
    return own if has_pixels(channels) else (*own, *ARRAY)


def _no_images(where: str, extensions: Sequence[str], left_out: LeftOut, advice: str) -> str:
    but = f" but {left_out.advice()}" if left_out.unnamed else ""
    return f"{where} holds no images ({', '.join(extensions)}){but}; {advice}."


_EXPECTED = "give a folder with one sub-folder of images a class, or one of images alone"
