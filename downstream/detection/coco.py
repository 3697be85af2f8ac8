"""Data sets in COCO's format: reading them, and finding what is wrong before any work is done.

The format is described at https://cocodataset.org/#format-data. Nothing here needs pycocotools,
Detectron2 or torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from erssl.downstream.detection.coco_checks import (
    fault_of_box,
    fault_of_facts,
    fault_of_image,
    require_unique,
)
from erssl.downstream.detection.coco_data import (
    CocoData,
    CocoImage,
    CocoInstance,
    CocoSource,
    Split,
)
from erssl.downstream.detection.coco_file import load_coco_file
from erssl.downstream.detection.image_files import check_images
from erssl.downstream.detection.masks import ReadMask, read_mask
from erssl.downstream.detection.plausibility import remarks_on
from erssl.errors import DataError, named

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
        DataError: If a file is missing, the JSON is broken, its entries contradict one another, or
            its boxes or masks as a whole are plainly of another convention.
    """
    content = load_coco_file(source, split)
    file = source.annotations
    categories = _categories(content["categories"], file)
    numbers = {category: number for number, category in enumerate(categories)}
    sizes = _sizes(content["images"], file)
    by_image = _group(content["annotations"], numbers, sizes, file, split, masks)
    images = _images(content["images"], by_image, source, split)
    data = CocoData(source, split, images, tuple(categories), tuple(categories.values()))
    if not images:
        raise DataError(f"{file} lists no images to {_USE[split]} on; name another file.")
    if not data.training_images:
        blank = data.counts["blank_masks"]
        why = f" ({blank} have masks without a pixel)" if blank else ""
        raise DataError(
            f"{file} has no object with a box to {_USE[split]} on{why}; name a file with "
            "annotations."
        )
    return data.with_remarks(remarks_on(data, content["categories"]))


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
        f"{named(lacks) or 'none'}, more there {named(extra) or 'none'}; give both files the same "
        "ids and names."
    )


_USE = {"train": "train", "val": "evaluate"}


def _categories(entries: list[dict[str, Any]], file: Path) -> dict[int, str]:
    """Names by id, in the order of the ids, as Detectron2 numbers them."""
    require_unique(entries, "categories", file)
    if not entries:
        raise DataError(f"{file} has no categories; a detector needs at least one.")
    return {e["id"]: str(e.get("name", e["id"])) for e in sorted(entries, key=lambda e: e["id"])}


def _sizes(entries: list[dict[str, Any]], file: Path) -> dict[int, tuple[int, int]]:
    """Height and width by the image's id."""
    require_unique(entries, "images", file)
    for entry in entries:
        if fault := fault_of_image(entry):
            raise DataError(f"The image with id {entry['id']} of {file} {fault}.")
    return {entry["id"]: (entry["height"], entry["width"]) for entry in entries}


def _group(
    entries: list[dict[str, Any]],
    numbers: Mapping[int, int],
    sizes: Mapping[int, tuple[int, int]],
    file: Path,
    split: Split,
    masks: bool,
) -> dict[int, list[CocoInstance]]:
    """Objects by the id of their image."""
    require_unique(entries, "annotations", file)
    unknown = [e["id"] for e in entries if not _listed(e.get("category_id"), numbers)]
    if unknown:
        raise DataError(
            f"{len(unknown)} annotations of {file} are of categories that it does not list (ids "
            f"{named(unknown)}); repair them."
        )
    faults: dict[str, list[int]] = {}
    grouped: dict[int, list[CocoInstance]] = {}
    for entry in entries:
        image = entry.get("image_id", -1)
        size = sizes.get(image) if isinstance(image, int) else None
        try:
            instance = _instance(entry, numbers, size if masks else None, split)
        except ValueError as error:
            faults.setdefault(str(error), []).append(entry["id"])
        else:
            grouped.setdefault(image, []).append(instance)
    for fault, ids in faults.items():
        raise DataError(
            f"{len(ids)} annotations of {file} {fault} (ids {named(ids)}); repair or remove them."
        )
    if lost := [i for i in grouped if i not in sizes]:
        count = sum(len(grouped[i]) for i in lost)
        raise DataError(
            f"{count} annotations of {file} name {len(lost)} images that it does not list (image "
            f"ids {named(lost)}); repair it."
        )
    return grouped


def _instance(
    entry: dict[str, Any], numbers: Mapping[int, int], size: tuple[int, int] | None, split: Split
) -> CocoInstance:
    """An object; its mask is read where the image's size is given.

    Raises:
        ValueError: If something is wrong with it, with the rest of a sentence.
    """
    if fault := fault_of_box(entry) or fault_of_facts(entry):
        raise ValueError(fault)
    x, y, width, height = (float(v) for v in entry["bbox"])
    mask: ReadMask | None = None
    if size is not None and not (split == "train" and min(width, height) <= 0):  # else not used
        mask = read_mask(entry.get("segmentation"), *size)
    return CocoInstance(
        entry["id"],
        (x, y, width, height),
        numbers[entry["category_id"]],
        None if mask is None else mask.segmentation,
        float(entry.get("area", width * height)),
        bool(entry.get("iscrowd", 0)),
        0 if mask is None else mask.left_out,
        mask is not None and mask.blank,
    )


def _listed(category: object, numbers: Mapping[int, int]) -> bool:
    return isinstance(category, int) and category in numbers


def _images(
    entries: list[dict[str, Any]],
    instances: Mapping[int, list[CocoInstance]],
    source: CocoSource,
    split: Split,
) -> tuple[CocoImage, ...]:
    images = tuple(
        CocoImage(
            entry["id"],
            source.images / entry["file_name"],
            entry["width"],
            entry["height"],
            tuple(instances.get(entry["id"], ())),
        )
        for entry in entries
    )
    _require_files(images, source, split)
    return images


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
            f"({named(missing)}); add them, or name their folder with {split}_images=<folder>."
        )
