"""Images with masks of class numbers, read from VOC's or COCO's layout and checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from erssl.downstream.detection.coco import check_same_categories, coco_layout, read_coco
from erssl.downstream.detection.coco_data import CocoData, CocoImage
from erssl.downstream.detection.image_files import check_images
from erssl.downstream.detection.voc import CLASS_NAMES, read_list
from erssl.downstream.segmentation.masks import (
    IGNORED,
    draw_objects,
    is_turned,
    mask_size,
    read_mask_file,
)
from erssl.errors import DataError, named

BACKGROUND = "background"
VOC_CLASSES = (BACKGROUND, *CLASS_NAMES)


@dataclass(frozen=True)
class SegmentationData:
    """A split that has been read.

    Attributes:
        name: What results call the data set.
        images: The images, with their objects where the masks are drawn from these.
        class_names: Name of each class number, the background first.
        masks: Mask of each image as a file; empty where they are drawn.
        digest: SHA-256 of what the masks are made of.
        notes: What was noticed when it was read, one sentence each.
    """

    name: str
    images: tuple[CocoImage, ...]
    class_names: tuple[str, ...]
    masks: tuple[Path, ...]
    digest: str
    notes: tuple[str, ...] = ()

    def mask(self, number: int) -> NDArray[np.uint8]:
        """Class numbers (height, width) of an image; 255 is no class.

        Args:
            number: Of the image.
        """
        if self.masks:
            return read_mask_file(self.masks[number], len(self.class_names))
        return draw_objects(self.images[number])

    def check(self, workers: int) -> tuple[str, ...]:
        """Decode every image and every mask file once, and compare their sizes, turned upright.

        Args:
            workers: Threads to decode with.

        Returns:
            How many images and masks are turned by their EXIF orientation, one sentence each.

        Raises:
            DataError: If one cannot be read, or does not fit.
        """
        notes = check_images(self, workers)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for _ in pool.map(self.mask, range(len(self.masks))):
                pass
            turned = list(pool.map(is_turned, self.masks))
        if names := [path.name for path, yes in zip(self.masks, turned, strict=True) if yes]:
            notes += (
                f"{len(names)} masks of {self.name} are turned upright by an EXIF orientation of "
                f"their own ({named(names)}).",
            )
        return notes


def read_voc_masks(
    root: Path, year: int, lists: Sequence[str], class_names: Sequence[str]
) -> list[SegmentationData]:
    """Read splits of VOC's segmentation layout.

    The layout is ``VOCdevkit/VOC<year>`` with ``ImageSets/Segmentation/<list>.txt``,
    ``JPEGImages/<id>.jpg`` and ``SegmentationClass/<id>.png``.

    Args:
        root: ``VOCdevkit``, the folder that holds it, or that of the year.
        year: Such as 2012.
        lists: Names of the lists, such as ``train`` and ``val``.
        class_names: Name of each class number, the background first.

    Raises:
        DataError: If a file is missing or is no mask.
    """
    devkit = root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root
    folder = devkit / f"VOC{year}" if (devkit / f"VOC{year}").is_dir() else devkit
    others = sorted(each.name for each in devkit.glob("VOC[0-9]*") if each.is_dir())
    if folder == devkit and others and not (devkit / "ImageSets").is_dir():
        raise DataError(
            f"{devkit} has no VOC{year}; there is {named(others)}: say year="
            f"{others[-1].removeprefix('VOC')}."
        )
    return [_voc_split(folder, f"voc{year}", name, tuple(class_names)) for name in lists]


def _voc_split(folder: Path, name: str, listed: str, names: tuple[str, ...]) -> SegmentationData:
    file = folder / "ImageSets" / "Segmentation" / f"{listed}.txt"
    parts = "ImageSets/Segmentation, JPEGImages and SegmentationClass"
    ids = read_list(file, f"VOCdevkit/VOC<year> with {parts}")
    if not ids:
        raise DataError(f"{file} lists no images; name another list.")
    images = [folder / "JPEGImages" / f"{each}.jpg" for each in ids]
    masks = [folder / "SegmentationClass" / f"{each}.png" for each in ids]
    for what, paths in (("images", images), ("masks", masks)):
        if missing := [path.name for path in paths if not os.path.isfile(path)]:
            raise DataError(
                f"{len(missing)} {what} that {file} names are not in {paths[0].parent} "
                f"({named(missing)}); add them."
            )
    digest = hashlib.sha256(repr(names).encode())
    for path in masks:
        digest.update(path.name.encode() + path.read_bytes())
    read = tuple(
        CocoImage(number, path, *mask_size(mask), ())
        for number, (path, mask) in enumerate(zip(images, masks, strict=True))
    )
    return SegmentationData(name, read, names, tuple(masks), digest.hexdigest())


def read_coco_masks(root: Path) -> list[SegmentationData]:
    """Read training and validation images of COCO's layout, for masks drawn from their objects.

    Args:
        root: The folder of ``annotations``, ``train2017`` and ``val2017``.

    Raises:
        DataError: If a file is missing or broken, or there are more classes than a mask can have.
    """
    sources = coco_layout(root)
    train, val = read_coco(sources[0], "train"), read_coco(sources[1], "val")
    check_same_categories(train, val)
    names = (BACKGROUND, *train.class_names)
    if len(names) > IGNORED:
        raise DataError(
            f"{train.source.annotations} has {len(names) - 1} categories and a mask holds at most "
            f"{IGNORED - 1}; merge some."
        )
    digests = [hashlib.sha256(each.source.annotations.read_bytes()) for each in (train, val)]
    return [
        SegmentationData("coco", each.images, names, (), digest.hexdigest(), _notes_on(each))
        for each, digest in zip((train, val), digests, strict=True)
    ]


def _notes_on(data: CocoData) -> tuple[str, ...]:
    """What of a COCO file is not in its masks, and what looks wrong, one sentence each."""
    file, counts = data.source.annotations, data.counts
    said = []
    if counts["empty_boxes"]:
        said.append(
            f"{counts['empty_boxes']} boxes of {file} have no area; their objects are not drawn."
        )
    if counts["blank_masks"]:
        said.append(f"{counts['blank_masks']} masks of {file} have no pixel.")
    return (*said, *data.polygon_notes, *data.remarks)
