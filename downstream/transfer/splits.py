"""Seeded splits, and the files that keep them with a run."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from erssl.errors import DataError, named, printable
from erssl.files import write_json, write_text

if TYPE_CHECKING:
    from erssl.downstream.transfer.datasets import TransferData

Indices = npt.NDArray[np.int64]

SPLITS = ("train", "val", "test")


def draw_validation(count: int, seed: int = 0, share: float = 0.2) -> tuple[Indices, Indices]:
    """Draw validation images from all that may be trained on, whatever their class.

    The same draw as in the code of Ericsson et al. 2021 (``linear.py``, ``random_seed=0``): of a
    shuffled list the first ⌊share · count⌋ are for validation. Images of the same order thus
    give the same split. Kornblith et al. 2019 and SimCLR leave open how theirs was drawn.

    Args:
        count: Number of images.
        seed: Of the draw.
        share: Of the validation images; 20 % (Ericsson et al.).

    Returns:
        Positions of the training and of the validation images, each sorted.

    Raises:
        DataError: If one of the two would be empty.
    """
    chosen = int(np.floor(share * count))
    if not 0 < chosen < count:
        raise DataError(
            f"{count} images cannot be split into {1 - share:.0%} for training and {share:.0%} "
            "for validation; give at least five."
        )
    # RandomState, whose stream numpy keeps as it is for good
    order = np.random.RandomState(seed).permutation(count).astype(np.int64)
    return np.sort(order[chosen:]), np.sort(order[:chosen])


def draw_per_class(
    labels: Indices, count: int, seed: int = 0
) -> tuple[Indices, Indices, tuple[int, ...]]:
    """Draw a number of images of each class for training, none twice; the rest is for tests.

    Args:
        labels: Class numbers (N,).
        count: Images a class. Of a class that has no more, half are drawn.
        seed: Of the draw.

    Returns:
        Positions of the chosen and of the other images, each sorted, and the classes that had
        too few.
    """
    random = np.random.RandomState(seed)
    chosen, small = np.zeros(len(labels), dtype=bool), []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        if len(members) <= count:
            small.append(int(label))
        chosen[members[: count if len(members) > count else max(1, len(members) // 2)]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen), tuple(small)


def halve_classes(labels: Indices, seed: int = 0) -> tuple[Indices, Indices]:
    """Split each class (N,) by chance in two halves; of an odd number training gets one more."""
    random = np.random.RandomState(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        chosen[members[: (len(members) + 1) // 2]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def write_splits(folder: Path, data: TransferData) -> dict[str, str]:
    """Write which images each split holds: one text file a split, and a JSON file on them.

    ``<name>-train.txt`` has a line ``<image>\t<class numbers>`` for each image, which is a
    path below the data set's folder, or a number where images are no files;
    ``<name>-splits.json`` the SHA-256 of each file, the seed, the counts and the notes.

    Args:
        folder: Where to; made where it does not exist.
        data: The data set.

    Returns:
        SHA-256 by split.

    Raises:
        OSError: If the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sums = {}
    for split, text in _texts(data).items():
        write_text(folder / f"{data.name}-{split}.txt", text)
        sums[split] = _sha256(text.encode())
    about = {"seed": data.seed, "counts": data.counts, "published_counts": data.published_counts}
    about |= {"complete": data.complete, "notes": list(data.notes), "sha256": sums}
    write_json(folder / _about(data.name), about)
    return sums


def read_splits(folder: Path, name: str) -> dict[str, list[str]]:
    """Read the lines of the files that `write_splits` wrote, once their checksums are verified.

    Raises:
        DataError: If a file is missing or is not what was written.
    """
    remedy = "delete them to split again, which is another experiment"
    about = folder / _about(name)
    try:
        sums: dict[str, Any] = json.loads(about.read_text(encoding="utf-8"))["sha256"]
        texts = {split: (folder / f"{name}-{split}.txt").read_bytes() for split in SPLITS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The splits of {name} in {folder} cannot be read ({_reason(error)}); {remedy}."
        ) from error
    if changed := [s for s in SPLITS if _sha256(texts[s]) != sums.get(s)]:
        raise DataError(
            f"The {named(changed)} split of {name} in {folder} is not the one that was written "
            f"(its SHA-256 differs from {about.name}); {remedy}."
        )
    return {s: _lines(t.decode()) for s, t in texts.items()}


def keep_splits(folder: Path, data: TransferData) -> dict[str, str]:
    """Write the splits of a new run, or make sure that a resumed one has the same.

    Args:
        folder: The run's folder of splits.
        data: The data set as it was loaded now.

    Returns:
        SHA-256 by split.

    Raises:
        DataError: If the files there have been changed, or name other images or classes than the
            data set has now.
    """
    if not (folder / _about(data.name)).exists():
        return write_splits(folder, data)
    before = read_splits(folder, data.name)
    now = _texts(data)
    for split in SPLITS:
        lines = _lines(now[split])
        if differing := set(before[split]) ^ set(lines):
            raise DataError(
                f"The {split} split of {data.name} has {len(lines)} images where the run began "
                f"with {len(before[split])}, and {len(differing)} are in one only "
                f"({named(sorted(line.split(chr(9))[0] for line in differing))}); give the "
                f"data_root and seed that it began with, or another run_dir."
            )
        if before[split] != lines:
            raise DataError(
                f"The {split} split of {data.name} has its images in another order than when the "
                "run began; give the data_root and seed that it began with, or another run_dir."
            )
    return {split: _sha256(text.encode()) for split, text in now.items()}


def _texts(data: TransferData) -> dict[str, str]:
    numbers = {"train": data.train_indices, "val": data.val_indices, "test": None}
    texts = {}
    for split in SPLITS:
        images = getattr(data, split)
        samples = getattr(images, "samples", None)
        if samples is not None:
            paths = (os.path.relpath(path, data.root) for path, _ in samples)
            names = [printable(Path(path).as_posix()) for path in paths]  # one line each
            labels = [label for _, label in samples]
        else:
            positions = numbers[split]
            names = list(map(str, range(len(images)) if positions is None else positions))
            labels = images.targets.tolist()
        rows = zip(names, map(_label_text, labels), strict=True)
        texts[split] = "".join(f"{name}\t{label}\n" for name, label in rows)
    return texts


def _lines(text: str) -> list[str]:
    return text.split("\n")[:-1]  # splitlines would also break at rarer characters


def _label_text(label: int | tuple[int, ...]) -> str:
    if isinstance(label, tuple):
        return ",".join(str(k) for k, mark in enumerate(label) if mark)
    return str(label)


def _about(name: str) -> str:
    return f"{name}-splits.json"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    return f"{type(error).__name__}: {error}".rstrip(".")
