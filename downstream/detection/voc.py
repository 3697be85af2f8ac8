"""Pascal VOC's detection layout: reading it, and finding what is wrong before any work is done.

The layout is ``VOCdevkit/VOC2007`` and ``VOCdevkit/VOC2012`` with ``Annotations``, ``ImageSets``
and ``JPEGImages``. As in Detectron2 and MoCo, difficult objects are trained on and are left out
of the evaluation.
"""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from erssl.downstream.detection.coco import CocoImage, CocoInstance, CocoSource
from erssl.errors import DataError, named

CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_ASKED_BY_EVALUATION = ("pose", "truncated", "difficult")


@dataclass(frozen=True)
class VocSplit:
    """A list of images of one year.

    Attributes:
        folder: Such as ``VOCdevkit/VOC2007``.
        year: 2007 is evaluated at eleven points of recall, 2012 under the whole curve.
        name: Of the list in ``ImageSets/Main``, such as ``"trainval"``.
    """

    folder: Path
    year: int
    name: str

    @property
    def file(self) -> Path:
        """The list."""
        return self.folder / "ImageSets" / "Main" / f"{self.name}.txt"


@dataclass(frozen=True)
class VocData:
    """A split that has been read and checked; images look as those of COCO do.

    Attributes:
        splits: The lists that it consists of.
        split: ``"train"`` or ``"val"``.
        images: All images; boxes are ``(x, y, width, height)`` from 0.
        difficult: Number of objects that are marked so.
        notes: Sentences that a reader of the result must know.
        name: What results call the data set.
        class_names: Name of each class number.
    """

    splits: tuple[VocSplit, ...]
    split: Literal["train", "val"]
    images: tuple[CocoImage, ...]
    difficult: int
    notes: tuple[str, ...] = ()
    name: str = "voc07+12"
    class_names: tuple[str, ...] = CLASS_NAMES
    has_codes: bool = False

    def with_remarks(self, remarks: Iterable[str]) -> VocData:
        """The same data, with more that was noticed."""
        return replace(self, notes=(*self.notes, *remarks))

    @property
    def source(self) -> CocoSource:
        """Where the first list lies, for messages."""
        first = self.splits[0]
        return CocoSource(first.folder / "JPEGImages", first.file, self.name)

    @cached_property
    def training_images(self) -> tuple[CocoImage, ...]:
        """Images with at least one object to train on."""
        return tuple(image for image in self.images if image.trainable)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Numbers of images and instances."""
        instances = [i for image in self.images for i in image.instances]
        return {
            "images": len(self.images),
            "images_without_objects": len(self.images) - len(self.training_images),
            "instances": len(instances),
            "difficult": self.difficult,
            "empty_boxes": sum(i.empty for i in instances),
        }


def read_voc(root: Path, split: Literal["train", "val"]) -> VocData:
    """Read what the VOC recipe trains or is tested on.

    Args:
        root: ``VOCdevkit``, or the folder that holds it.
        split: ``"train"`` for trainval of 2007 and 2012, ``"val"`` for test of 2007.

    Returns:
        The split. Where there is no VOC2012, it is 2007 alone, and a note says so.

    Raises:
        DataError: If a file is missing or broken, or there is nothing in it.
    """
    devkit = root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root
    notes = []
    if split == "val":
        splits = [VocSplit(devkit / "VOC2007", 2007, "test")]
    else:
        splits = [VocSplit(devkit / f"VOC{year}", year, "trainval") for year in (2007, 2012)]
        if splits[0].folder.is_dir() and not splits[1].folder.is_dir():
            del splits[1]
            notes.append(
                f"{devkit} has no VOC2012, so that training is on VOC2007 alone; published numbers "
                "are of both."
            )
    read = [read_split(part) for part in splits]
    images = tuple(image for part, _ in read for image in part)
    if empty := sum(i.empty for image in images for i in image.instances):
        use = "left out of training" if split == "train" else "kept for the evaluation"
        notes.append(f"{empty} boxes of {devkit} have no area and are {use}, as in Detectron2.")
    data = VocData(tuple(splits), split, images, sum(count for _, count in read), tuple(notes))
    if not data.training_images:
        what = "train" if split == "train" else "evaluate"
        raise DataError(f"{devkit} lists no image with an object to {what} on; check its lists.")
    return data


def read_list(file: Path, holds: str) -> list[str]:
    """Names of images that a list of VOC's ``ImageSets`` holds.

    Args:
        file: The list.
        holds: What ``data_root`` has to hold, for the error.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise DataError(
            f"{file} cannot be read ({reason}); data_root= must hold {holds}."
        ) from error


def read_split(split: VocSplit) -> tuple[list[CocoImage], int]:
    """Read one list of images.

    Args:
        split: The list.

    Returns:
        Its images, and how many of their objects are difficult.

    Raises:
        DataError: If a file is missing or broken.
    """
    file = split.file
    ids = read_list(file, "VOCdevkit/VOC2007 with Annotations, ImageSets/Main and JPEGImages")
    files = {i: split.folder / "JPEGImages" / f"{i}.jpg" for i in ids}
    if missing := [path.name for path in files.values() if not os.path.isfile(path)]:
        raise DataError(
            f"{len(missing)} images that {file} names are not in {split.folder / 'JPEGImages'} "
            f"({named(missing)}); add them."
        )
    images: list[CocoImage] = []
    difficult = 0
    for identifier, path in files.items():
        annotations = split.folder / "Annotations" / f"{identifier}.xml"
        try:
            image, hard = _read_image(annotations, path, len(images), split.name == "test")
        except OSError as error:
            raise DataError(f"{annotations} cannot be read ({error.strerror}); add it.") from error
        except (ET.ParseError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"{annotations} is no annotation of VOC ({reason}); repair it."
            ) from error
        images.append(image)
        difficult += hard
    return images, difficult


def _read_image(file: Path, path: Path, number: int, test: bool) -> tuple[CocoImage, int]:
    root = ET.parse(file).getroot()
    width, height = (int(_text(root, f"size/{side}")) for side in ("width", "height"))
    if min(width, height) < 1:
        raise ValueError(f"its image has {width} x {height} pixels")
    instances: list[CocoInstance] = []
    difficult = 0
    for thing in root.findall("object"):
        name = _text(thing, "name")
        if name not in CLASS_NAMES:
            raise ValueError(f"its class {name} is none of the 20")
        x0, y0, x1, y1 = (float(_text(thing, f"bndbox/{side}")) for side in _SIDES)
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            raise ValueError(f"a box of a {name} is not finite")
        x0, y0 = x0 - 1, y0 - 1  # VOC counts pixels from 1, the last one included
        box = (x0, y0, x1 - x0, y1 - y0)
        area, label = box[2] * box[3], CLASS_NAMES.index(name)
        instances.append(CocoInstance(len(instances), box, label, None, area, False))
        if test:
            for word in _ASKED_BY_EVALUATION:
                _text(thing, word)
        difficult += thing.findtext("difficult") == "1"
    return CocoImage(number, path, width, height, tuple(instances)), difficult


def _text(element: ET.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise KeyError(f"it has no {path}")
    return text
