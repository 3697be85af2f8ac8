"""Reading each data set in its original layout, through torchvision's class where there is one."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torchvision import datasets as tv

from erssl.data.datasets import ImagesInMemory
from erssl.data.folders import ImageFiles
from erssl.data.images import load_image
from erssl.downstream.transfer.images import FolderContent, MultiLabelFiles, take
from erssl.downstream.transfer.splits import Indices, draw_per_class, halve_classes
from erssl.errors import DataError, named

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_TILE, _TILES_A_ROW = 32, 64
_PER_CLASS = 30  # of Caltech-101, for training


Reader = Callable[[Path, int, bool], FolderContent]


def read_aircraft(root: Path, seed: int, partial_ok: bool) -> FolderContent:
    """FGVC-Aircraft by variants, with its own three splits."""
    parts = [tv.FGVCAircraft(str(root), split=s) for s in ("train", "val", "test")]
    return _own_split(parts, parts[0].classes)


def read_caltech101(root: Path, seed: int, partial_ok: bool) -> FolderContent:
    """Caltech-101 without its background: 30 images of each class drawn, the rest for tests."""
    listed = tv.Caltech101(str(root))
    folder = root / "caltech101" / "101_ObjectCategories"
    samples = [
        (str(folder / listed.categories[y] / f"image_{number:04d}.jpg"), int(y))
        for y, number in zip(listed.y, listed.index, strict=True)
    ]
    chosen, rest, small = draw_per_class(np.asarray(listed.y, dtype=np.int64), _PER_CLASS, seed)
    note = (
        f"caltech101 has {len(small)} classes of {_PER_CLASS} images or fewer, of which half are "
        "taken for training."
    )
    every = ImageFiles(samples)
    notes = (note,) if small else ()
    return FolderContent(take(every, chosen), take(every, rest), listed.categories, notes=notes)


def read_cars(root: Path, seed: int, partial_ok: bool) -> FolderContent:
    """Stanford Cars, of the 2013 release with its labels of the test images."""
    train, test = (tv.StanfordCars(str(root), split=s) for s in ("train", "test"))
    samples = [[(path, int(label)) for path, label in part._samples] for part in (train, test)]
    return _drawn(samples[0], samples[1], train.classes)


def read_cifar10(root: Path, seed: int, partial_ok: bool) -> FolderContent:
    """CIFAR-10, the Python version, or an exact part of it."""
    if (root / "cifar-10-batches-py" / "test_batch").is_file():
        return _cifar(tv.CIFAR10, root)
    return _cifar_part(root / "cifar10_exact", "y", CIFAR10_CLASSES)


def read_cifar100(root: Path, seed: int, partial_ok: bool) -> FolderContent:
    """CIFAR-100 by its fine labels, the Python version, or an exact part of it."""
    if (root / "cifar-100-python" / "test").is_file():
        return _cifar(tv.CIFAR100, root)
    return _cifar_part(root / "cifar100_exact", "fine", None)


def read_dtd(root: Path, seed: int, partial_ok: bool) -> FolderContent:
    """Describable textures, the first of the ten splits."""
    parts = [tv.DTD(str(root), split=s, partition=1) for s in ("train", "val", "test")]
    _check_same_classes("dtd", parts)
    return _own_split(parts, parts[0].classes)


def read_flowers(root: Path, seed: int, partial_ok: bool) -> FolderContent:
    """Oxford 102 Flowers, with its own three splits."""
    splits = ("train", "val", "test")
    notes: tuple[str, ...] = ()
    try:
        parts = [tv.Flowers102(str(root), split=s) for s in splits]
    except RuntimeError:
        if not partial_ok:
            raise DataError(
                f"setid.mat and imagelabels.mat in {root / 'flowers-102'} are not the official "
                "ones; put those there, or set partial_ok=true to use what is there."
            ) from None
        parts = [_AnyFlowers(str(root), split=s) for s in splits]
        notes = ("flowers has label files that are not the official ones.",)
    names = getattr(tv.Flowers102, "classes", ())
    return _own_split(parts, names, notes)


def read_food(root: Path, seed: int, partial_ok: bool) -> FolderContent:
    """Food-101."""
    parts = [tv.Food101(str(root), split=s) for s in ("train", "test")]
    _check_same_classes("food", parts)
    return _drawn(_listed(parts[0]), _listed(parts[1]), parts[0].classes)


def read_pets(root: Path, seed: int, partial_ok: bool) -> FolderContent:
    """Oxford-IIIT Pets by breed; names follow the labels, since a part may lack breeds."""
    parts = [tv.OxfordIIITPet(str(root), split=s) for s in ("trainval", "test")]
    samples = [list(zip(map(str, p._images), map(int, p._labels), strict=True)) for p in parts]
    breeds = {label: Path(path).stem.rsplit("_", 1)[0] for part in samples for path, label in part}
    names = [
        breeds.get(i, "").replace("_", " ").title() for i in range(max(breeds, default=-1) + 1)
    ]
    return _drawn(samples[0], samples[1], names)


def read_sun397(root: Path, seed: int, partial_ok: bool) -> FolderContent:
    """SUN397 by the first of its ten official partitions."""
    listed = tv.SUN397(str(root))
    labels = dict(zip(map(str, listed._image_files), map(int, listed._labels), strict=True))
    places = [root / "SUN397", root / "SUN397" / "Partitions", root / "Partitions", root]
    for place in places:
        files = [place / f"{kind}_01.txt" for kind in ("Training", "Testing")]
        if all(file.is_file() for file in files):
            samples = [_partition(file, root / "SUN397", listed.class_to_idx) for file in files]
            return _drawn(samples[0], samples[1], listed.classes)
    if not partial_ok:
        raise DataError(
            f"sun397 in {root} has no Training_01.txt and Testing_01.txt, its first official "
            f"split; put both (of the authors' Partitions.zip) into {root / 'SUN397'}, or set "
            "partial_ok=true to halve each class by chance."
        )
    # torchvision lists them in the order of the file system, which differs between machines
    every = ImageFiles(sorted(labels.items()))
    train, test = halve_classes(np.asarray([y for _, y in every.samples], dtype=np.int64), seed)
    note = (
        "sun397 has no official split here (Training_01.txt, Testing_01.txt); each class is halved "
        "by chance."
    )
    return FolderContent(take(every, train), take(every, test), listed.classes, notes=(note,))


def read_voc2007(root: Path, seed: int, partial_ok: bool) -> FolderContent:
    """PASCAL VOC 2007: a class is positive where an object of it is not marked difficult."""
    parts = []
    for split in ("train", "val", "test"):
        listed = tv.VOCDetection(str(root), year="2007", image_set=split)
        pairs = zip(map(str, listed.images), listed.annotations, strict=True)
        parts.append([(path, _marks(annotation)) for path, annotation in pairs])
    train, val, test = parts
    return FolderContent(
        MultiLabelFiles(train + val), MultiLabelFiles(test), VOC_CLASSES, _ranges(train, val)
    )


class _AnyFlowers(tv.Flowers102):  # type: ignore[misc, unused-ignore]
    """Flowers whose label files may be any; that they are there has been checked."""

    def _check_integrity(self) -> bool:
        return True


def _drawn(
    train: list[tuple[str, int]], test: list[tuple[str, int]], class_names: Sequence[str]
) -> FolderContent:
    return FolderContent(ImageFiles(train), ImageFiles(test), class_names)


def _own_split(
    parts: Sequence[Any], class_names: Sequence[str], notes: tuple[str, ...] = ()
) -> FolderContent:
    train, val, test = (_listed(part) for part in parts)
    split = _ranges(train, val)
    return FolderContent(ImageFiles(train + val), ImageFiles(test), class_names, split, notes)


def _ranges(train: Sequence[Any], val: Sequence[Any]) -> tuple[Indices, Indices]:
    return np.arange(len(train)), np.arange(len(train), len(train) + len(val))


def _listed(part: Any) -> list[tuple[str, int]]:
    """``(path, class number)`` of each image of a torchvision data set, without reading one."""
    return list(zip(map(str, part._image_files), map(int, part._labels), strict=True))


def _check_same_classes(name: str, parts: Sequence[Any]) -> None:
    """torchvision numbers the classes of each split for itself."""
    for part in parts[1:]:
        if differing := set(part.classes) ^ set(parts[0].classes):
            raise DataError(
                f"The splits of {name} name different classes ({named(sorted(differing))}), so "
                "that class numbers differ; give each class images in every split."
            )


def _cifar(make: Any, root: Path) -> FolderContent:
    try:
        train, test = (make(str(root), train=train) for train in (True, False))
    except RuntimeError:  # what it says names an option of torchvision's
        raise DataError(
            f"the files in {root / make.base_folder} are not the official ones, by their MD5; "
            "delete that folder and set download=true, or put the official files there."
        ) from None
    parts = [ImagesInMemory(p.data, np.asarray(p.targets, np.int64)) for p in (train, test)]
    return FolderContent(parts[0], parts[1], train.classes)


def _cifar_part(stem: Path, key: str, class_names: Sequence[str] | None) -> FolderContent:
    """``<stem>_{train,test}.png``, of 32 × 32 tiles, 64 a row, and ``<stem>_labels.npz``."""
    with np.load(f"{stem}_labels.npz") as labels:
        targets = {s: labels[f"{s}_{key}"].astype(np.int64) for s in ("train", "test")}
        names = class_names or labels["fine_names"].tolist()
    parts = {s: ImagesInMemory(_tiles(f"{stem}_{s}.png", len(y)), y) for s, y in targets.items()}
    note = f"{stem.name} is an exact part of CIFAR, not the official files."
    return FolderContent(parts["train"], parts["test"], names, notes=(note,))


def _tiles(path: str, count: int) -> npt.NDArray[np.uint8]:
    """The first images (count, 32, 32, 3) of a mosaic."""
    mosaic = np.asarray(load_image(path))
    rows, rest = divmod(len(mosaic), _TILE)
    if mosaic.shape[1] != _TILE * _TILES_A_ROW or rest or rows * _TILES_A_ROW < count:
        raise DataError(
            f"the mosaic {path} is {mosaic.shape[1]} x {len(mosaic)} pixels, which does not hold "
            f"{count} tiles of 32 x 32 with 64 a row; give the file that its labels belong to."
        )
    tiles = mosaic.reshape(rows, _TILE, _TILES_A_ROW, _TILE, 3).swapaxes(1, 2)
    return np.array(tiles.reshape(-1, _TILE, _TILE, 3)[:count])


def _partition(file: Path, folder: Path, labels: dict[str, int]) -> list[tuple[str, int]]:
    """``(path, class number)`` of the images that a partition names as ``/a/abbey/sun_x.jpg``."""
    samples = []
    for line in file.read_text(encoding="utf-8").split():
        place = line.strip("/").split("/")
        samples.append((str(folder.joinpath(*place)), labels["/".join(place[1:-1])]))
    return samples


def _marks(annotation: str) -> tuple[int, ...]:
    """1 for each class with an object that is not difficult, else 0 (Ericsson et al.'s code)."""
    try:
        objects = ET.parse(annotation).getroot().findall("object")
    except (OSError, ET.ParseError) as error:
        raise DataError(
            f"the annotation {annotation} cannot be read ({error}); put the original there."
        ) from error
    names = {o.findtext("name", "").strip(): 0 for o in objects}
    names |= {
        o.findtext("name", "").strip(): 1 for o in objects if not int(o.findtext("difficult", "0"))
    }
    if unknown := sorted(set(names) - set(VOC_CLASSES)):
        raise DataError(
            f"the annotation {annotation} names other classes than VOC's 20 ({named(unknown)}); "
            "put the original there."
        )
    return tuple(names.get(name, 0) for name in VOC_CLASSES)
