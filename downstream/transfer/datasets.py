"""Loading a data set of the transfer suite: found, read, split and compared with the whole."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from erssl.data.checks import check_choice, check_switch, check_whole
from erssl.data.datasets import ImagesInMemory
from erssl.data.images import find_unreadable
from erssl.downstream.transfer.images import FolderContent, Images, take, targets_of
from erssl.downstream.transfer.splits import SPLITS, Indices, draw_validation
from erssl.downstream.transfer.suite_metrics import Metric
from erssl.downstream.transfer.table import TRANSFER_DATASETS, TransferDataset
from erssl.errors import DataError, named
from erssl.paths import user_path

__all__ = [
    "TRANSFER_DATASETS",
    "TransferData",
    "TransferDataset",
    "check_images",
    "load_transfer",
    "targets_of",
]


@dataclass(frozen=True)
class TransferData:
    """A data set that was loaded and split.

    Attributes:
        name: Of the data set.
        root: The folder that holds its original layout.
        seed: Of the split.
        train: Training images: ``(RGB image, class number)``, or for VOC 1 and 0 for each
            class (K,), float32.
        val: Validation images, to choose hyper-parameters on.
        train_val: Both, for the last fit.
        test: Test images.
        train_indices: Positions of ``train`` in ``train_val``, so that its features serve all.
        val_indices: Positions of ``val`` in ``train_val``.
        num_classes: Number of classes K of the whole data set.
        class_names: Their K names; ``class <number>`` where none is known.
        metric: What counts.
        counts: Images found, by split.
        published_counts: Images of the whole data set, by split.
        complete: Whether it is the whole data set, so that results can be compared with published
            ones.
        notes: What is different here, as sentences.
    """

    name: str
    root: Path
    seed: int
    train: Images
    val: Images
    train_val: Images
    test: Images
    train_indices: Indices = field(repr=False)
    val_indices: Indices = field(repr=False)
    num_classes: int
    class_names: tuple[str, ...]
    metric: Metric
    counts: dict[str, int]
    published_counts: dict[str, int]
    complete: bool
    notes: tuple[str, ...]


def load_transfer(
    name: str,
    root: str | Path,
    download: bool = False,
    seed: int = 0,
    partial_ok: bool = False,
) -> TransferData:
    """Load a data set in its original layout, and split it as the protocol has it.

    The layout is looked for in ``root`` and in each folder of it.

    Args:
        name: One of `TRANSFER_DATASETS`.
        root: The folder of data sets.
        download: Fetch what is missing into ``root``, where torchvision still can.
        seed: Of the splits that are drawn; 0 (Ericsson et al.'s code).
        partial_ok: Take a part of the data set, which the notes then say; without it anything
            but the published counts of images is refused.

    Returns:
        The data set without any transform.

    Raises:
        ConfigError: If an option is of the wrong kind.
        DataError: If the folder is missing, incomplete, of another layout or a part, files in it
            cannot be read or do not fit together, or class numbers are out of range.
    """
    check_choice("dataset", name, tuple(TRANSFER_DATASETS))
    check_switch("download", download)
    check_switch("partial_ok", partial_ok)
    check_whole("seed", seed, 0, "a seed")
    row = TRANSFER_DATASETS[name]
    folder = _locate(row, user_path(root), download)
    try:
        content = row.read(folder, seed, partial_ok)
    except DataError:
        raise
    except Exception as error:  # lists, tables and archives fail in many ways when damaged
        what = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise DataError(
            f"{name} in {folder} cannot be read ({type(error).__name__}: {what}); put the original "
            "files there."
        ) from error
    return _assemble(row, folder, seed, content, partial_ok)


def check_images(data: TransferData, workers: int = 1) -> None:
    """Decode every image file once.

    Args:
        data: The data set.
        workers: Threads to decode with.

    Raises:
        DataError: If an image cannot be read.
    """
    files = (p for p in (data.train_val, data.test) if not isinstance(p, ImagesInMemory))
    faults = find_unreadable([path for part in files for path, _ in part.samples], workers)
    if faults:
        names = named(str(Path(path).relative_to(data.root)) for path, _ in faults)
        raise DataError(
            f"{data.name} in {data.root} has {len(faults)} images that cannot be read ({names}; "
            f"the first: {faults[0][1]}); put the original files there."
        )


def _assemble(
    row: TransferDataset, folder: Path, seed: int, content: FolderContent, partial_ok: bool
) -> TransferData:
    for part in (content.train_val, content.test):
        _check_files(row, folder, part)
        _check_labels(row, folder, targets_of(part))
    try:
        train, val = content.split or draw_validation(len(content.train_val), seed)
    except DataError as error:
        raise DataError(f"{row.name} in {folder}: {error}") from error
    parts = {"train": take(content.train_val, train), "val": take(content.train_val, val)}
    counts = {split: len(part) for split, part in {**parts, "test": content.test}.items()}
    if empty := [split for split, count in counts.items() if count == 0]:
        raise DataError(
            f"{row.name} in {folder} has an empty list of images for {named(empty)}; put the "
            "original."
        )
    if len(np.unique(targets_of(parts["train"]), axis=0)) < 2:
        raise DataError(
            f"All {counts['train']} training images of {row.name} in {folder} have the same "
            "labels; give images of at least two classes."
        )
    names = list(content.class_names[: row.classes])
    names += [""] * (row.classes - len(names))
    names = [label or f"class {k}" for k, label in enumerate(names)]
    gaps = _gaps(row, counts, targets_of(parts["train"]), names)
    if gaps and not partial_ok:
        raise DataError(
            f"{row.name} in {folder} {' and '.join(gaps)}; complete the folder, or set "
            "partial_ok=true to use what is there."
        )
    notes = [f"{row.name} {gap}." for gap in gaps]
    return TransferData(
        name=row.name,
        root=folder,
        seed=seed,
        train=parts["train"],
        val=parts["val"],
        train_val=content.train_val,
        test=content.test,
        train_indices=train,
        val_indices=val,
        num_classes=row.classes,
        class_names=tuple(names),
        metric=row.metric,
        counts=counts,
        published_counts=dict(zip(SPLITS, row.counts, strict=True)),
        complete=not gaps and not content.notes,
        notes=(*((row.remark,) if row.remark else ()), *content.notes, *notes),
    )


def _locate(row: TransferDataset, root: Path, download: bool) -> Path:
    """The folder that holds the data set's layout: the root, or one of the folders in it."""
    layouts = [layout for layout in (row.needs, row.part) if layout]
    places = [root, *sorted(p for p in _entries(root) if p.is_dir())]
    whole = [p for layout in layouts for p in places if all((p / n).exists() for n in layout)]
    if not whole and download:
        _fetch(row, root)
        whole = [root] if all((root / need).exists() for need in row.needs) else []
    if whole and (whole[0] == root or len(set(whole)) == 1):
        return whole[0]
    if whole:
        raise DataError(
            f"{row.name} is in {len(whole)} folders of data_root={root} "
            f"({named(p.name for p in whole)}); name the right one with data_root."
        )
    remedy = (
        "set download=true to fetch it there"
        if row.fetch
        else "put them there by hand, since the host that torchvision fetched them from is gone"
    )
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(
            f"data_root={root} {what}; name the folder that holds {row.needs[0]} of {row.name}, "
            f"or {remedy}."
        )
    # the place that has the most of it, to say what it lacks
    lacking = min(
        ([p / n for n in row.needs if not (p / n).exists()] for p in places),
        key=len,
    )
    files = [str(path.relative_to(root)) for path in lacking]
    what = "is not complete in"
    if len(files) == len(row.needs):
        what, files = "is not in", [*files, *row.beside]
    raise DataError(
        f"{row.name} {what} data_root={root}, which lacks {named(files)}; give the original "
        f"layout, or {remedy}."
    )


def _entries(root: Path) -> list[Path]:
    try:
        return list(root.iterdir())
    except OSError:
        return []


def _fetch(row: TransferDataset, root: Path) -> None:
    if row.fetch is None:
        raise DataError(
            f"{row.name} cannot be downloaded any more, since the host that torchvision fetched it "
            f"from is gone; put {named((*row.needs, *row.beside))} into data_root={root} by hand."
        )
    try:
        with _archives_stay_inside():
            row.fetch(str(root))
    except Exception as error:  # of networks, archives and optional packages
        what = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"{row.name} could not be fetched into data_root={root} ({what}); put "
            f"{named((*row.needs, *row.beside))} there by hand."
        ) from error


@contextmanager
def _archives_stay_inside() -> Iterator[None]:
    """Refuse members of a tar file that lie outside of its folder, by their names or by links.

    torchvision unpacks an archive that lies in the root already, and knows no checksum of some.
    """
    before = tarfile.TarFile.extraction_filter  # of Python 3.10.12, 3.11.4 and newer
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _check_files(row: TransferDataset, folder: Path, images: Images) -> None:
    if len(images) == 0:
        raise DataError(f"{row.name} in {folder} has an empty list of images; put the original.")
    if isinstance(images, ImagesInMemory):
        return
    paths = [Path(path) for path, _ in images.samples]
    if missing := [str(path.relative_to(folder)) for path in paths if not path.is_file()]:
        raise DataError(
            f"{row.name} in {folder} lists {len(paths)} images of which {len(missing)} are not "
            f"there ({named(missing)}); complete the folder."
        )


def _check_labels(row: TransferDataset, folder: Path, targets: Indices) -> None:
    low, high = int(targets.min()), int(targets.max())
    if targets.ndim == 1 and (low < 0 or high >= row.classes):
        raise DataError(
            f"{row.name} in {folder} has class numbers from {low} to {high}, counted from 0, where "
            f"its {row.classes} classes have 0 to {row.classes - 1}; put the original labels there."
        )


def _gaps(
    row: TransferDataset, counts: dict[str, int], targets: Indices, names: Sequence[str]
) -> list[str]:
    """What is missing to the whole data set, as ends of a sentence."""
    gaps = []
    if tuple(counts[split] for split in SPLITS) != row.counts:
        listed = " / ".join(f"{counts[split]:,}" for split in SPLITS)
        published = " / ".join(f"{count:,}" for count in row.counts)
        gaps.append(
            f"has {listed} images for training / validation / test where the whole has "
            f"{published} ({row.source})"
        )
    held = targets.any(axis=0) if targets.ndim > 1 else np.bincount(targets, minlength=row.classes)
    if empty := [names[k] for k in np.flatnonzero(held == 0).tolist()]:
        gaps.append(
            f"has no training image of {len(empty)} of its {row.classes} classes ({named(empty)})"
        )
    return gaps
