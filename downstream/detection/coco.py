"""Data sets in COCO's format: reading them, and finding what is wrong before any work is done.

The format is described at https://cocodataset.org/#format-data. Nothing here needs pycocotools,
Detectron2 or torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from erssl.downstream.detection.coco_checks import (
    fault_of_box,
    fault_of_facts,
    fault_of_segmentation,
    require_unique,
    some,
)
from erssl.downstream.detection.coco_data import (
    CocoData,
    CocoImage,
    CocoInstance,
    CocoSource,
    Split,
)
from erssl.errors import DataError

__all__ = [
    "CocoData",
    "CocoImage",
    "CocoInstance",
    "CocoSource",
    "check_images",
    "check_same_categories",
    "coco_layout",
    "read_coco",
]


def coco_layout(root: Path) -> tuple[CocoSource, CocoSource]:
    """The standard layout: ``annotations/instances_{train,val}2017.json`` beside the images.

    Args:
        root: The folder that holds ``annotations``, ``train2017`` and ``val2017``.

    Returns:
        Training and validation split.
    """
    train, val = (
        CocoSource(root / f"{split}2017", root / "annotations" / f"instances_{split}2017.json")
        for split in ("train", "val")
    )
    return train, val


def read_coco(source: CocoSource, split: Split, masks: bool = True) -> CocoData:
    """Read a split and check all of it but the images' content.

    Args:
        source: Where it lies.
        split: What it is used for.
        masks: Whether masks are needed; boxes alone need none.

    Returns:
        The split.

    Raises:
        DataError: If a file is missing, the JSON is broken, or its entries contradict one another.
    """
    content = _load(source, split)
    file = source.annotations
    categories = _categories(content["categories"], file)
    numbers = {category: number for number, category in enumerate(categories)}
    by_image = _group(content["annotations"], numbers, file, split, masks)
    images = _images(content["images"], by_image, source, split)
    data = CocoData(source, split, images, tuple(categories), tuple(categories.values()))
    if not images:
        raise DataError(f"{file} lists no images to {_USE[split]} on; name another file.")
    if not data.training_images:
        raise DataError(
            f"{file} has no object with a box to {_USE[split]} on; name a file with annotations."
        )
    return data


def check_same_categories(train: CocoData, val: CocoData) -> None:
    """Make sure that class numbers mean the same in both splits.

    Raises:
        DataError: If ids or names of the categories differ.
    """
    ours = dict(zip(train.category_ids, train.class_names, strict=True))
    theirs = dict(zip(val.category_ids, val.class_names, strict=True))
    if ours == theirs:
        return
    lacks = [ours[i] for i in ours if ours[i] != theirs.get(i)]
    extra = [theirs[i] for i in theirs if theirs[i] != ours.get(i)]
    raise DataError(
        f"The categories of {val.source.annotations} ({len(theirs)}) are not those of "
        f"{train.source.annotations} ({len(ours)}), which the detector's head has: lacking there "
        f"{some(lacks) or 'none'}, more there {some(extra) or 'none'}; give both files the same "
        "ids and names."
    )


def check_images(data: Any, workers: int) -> None:
    """Decode every image once.

    Args:
        data: ``CocoData``, or another reader's with ``images`` and ``name``.
        workers: Threads to decode with.

    Raises:
        DataError: If one cannot be read.
    """
    from erssl.data.images import find_unreadable

    faults = find_unreadable([image.path for image in data.images], workers)
    if faults:
        listed = some(f"{os.path.basename(path)}: {reason}" for path, reason in faults)
        folder = os.path.dirname(faults[0][0])
        raise DataError(
            f"{len(faults)} of the {len(data.images)} images of {data.name} in {folder} cannot "
            f"be read ({listed}); repair them, or remove them from the annotations."
        )


_USE = {"train": "train", "val": "evaluate"}


def _load(source: CocoSource, split: str) -> dict[str, Any]:
    file = source.annotations
    if not source.images.is_dir():
        raise DataError(
            f"{source.images} is no folder of images; name it with {split}_images=<folder>, or "
            "data_root= in the standard layout."
        )
    try:
        if file.exists() and not file.is_file():  # a pipe would be waited for
            raise DataError(f"{file} is no file; name the JSON file of the {split} split.")
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}); name the JSON file with "
            f"{split}_annotations=<file>, or data_root= in the standard layout."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is broken JSON ({error}); download it again.") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"{file} has no list {key!r}; it must be COCO's format of instances, with images, "
                "annotations and categories."
            )
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise DataError(f"{file} has entries of {key!r} that are no objects; repair it.")
    return content  # type: ignore[no-any-return]


def _categories(entries: list[dict[str, Any]], file: Path) -> dict[int, str]:
    """Names by id, in the order of the ids, as Detectron2 numbers them."""
    require_unique(entries, "categories", file)
    if not entries:
        raise DataError(f"{file} has no categories; a detector needs at least one.")
    return {e["id"]: str(e.get("name", e["id"])) for e in sorted(entries, key=lambda e: e["id"])}


def _group(
    entries: list[dict[str, Any]], numbers: Mapping[int, int], file: Path, split: str, masks: bool
) -> dict[int, list[CocoInstance]]:
    require_unique(entries, "annotations", file)
    unknown = [e["id"] for e in entries if not _listed(e.get("category_id"), numbers)]
    if unknown:
        raise DataError(
            f"{len(unknown)} annotations of {file} are of categories that it does not list (ids "
            f"{some(unknown)}); repair them."
        )
    faults: dict[str, list[int]] = {}
    grouped: dict[int, list[CocoInstance]] = {}
    for entry in entries:
        fault = fault_of_box(entry)
        unused = split == "train" and fault is None and min(entry["bbox"][2:]) <= 0
        if fault is None and masks and not unused:
            fault = fault_of_segmentation(entry)
        fault = fault or fault_of_facts(entry)
        if fault is not None:
            faults.setdefault(fault, []).append(entry["id"])
            continue
        x, y, width, height = (float(v) for v in entry["bbox"])
        instance = CocoInstance(
            entry["id"],
            (x, y, width, height),
            numbers[entry["category_id"]],
            entry.get("segmentation") if masks else None,
            float(entry.get("area", width * height)),
            bool(entry.get("iscrowd", 0)),
        )
        grouped.setdefault(entry.get("image_id", -1), []).append(instance)
    for fault, ids in faults.items():
        raise DataError(
            f"{len(ids)} annotations of {file} {fault} (ids {some(ids)}); repair or remove them."
        )
    return grouped


def _listed(category: object, numbers: Mapping[int, int]) -> bool:
    return isinstance(category, int) and category in numbers


def _images(
    entries: list[dict[str, Any]],
    instances: dict[int, list[CocoInstance]],
    source: CocoSource,
    split: str,
) -> tuple[CocoImage, ...]:
    file = source.annotations
    require_unique(entries, "images", file)
    listed = {entry["id"] for entry in entries}
    if lost := [i for i in instances if i not in listed]:
        count = sum(len(instances[i]) for i in lost)
        raise DataError(
            f"{count} annotations of {file} name {len(lost)} images that it does not list (image "
            f"ids {some(lost)}); repair it."
        )
    images = []
    for entry in entries:
        name, width, height = (entry.get(key) for key in ("file_name", "width", "height"))
        if not isinstance(name, str) or not _is_length(width) or not _is_length(height):
            raise DataError(
                f"The image with id {entry['id']} of {file} has no file_name, width and height; "
                "add them."
            )
        found = tuple(instances.get(entry["id"], ()))
        images.append(CocoImage(entry["id"], source.images / name, width, height, found))
    _require_files(images, source, split)
    return tuple(images)


def _is_length(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and value > 0


def _require_files(images: Iterable[CocoImage], source: CocoSource, split: str) -> None:
    present = set(os.listdir(source.images))  # one call in place of one for each image
    missing = [
        image.path.name
        for image in images
        if not (image.path.parent == source.images and image.path.name in present)
        and not os.path.isfile(image.path)
    ]
    if missing:
        raise DataError(
            f"{len(missing)} images that {source.annotations} names are not in {source.images} "
            f"({some(missing)}); add them, or name their folder with {split}_images=<folder>."
        )
