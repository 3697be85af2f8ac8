"""A data set in COCO's format, once it has been read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

Code: TypeAlias = dict[str, Any]  # size (height, width), and counts as compressed text
Polygons: TypeAlias = list[list[float]]
Split: TypeAlias = Literal["train", "val"]


@dataclass(frozen=True)
class CocoSource:
    """Where a split lies.

    Attributes:
        images: Folder of the images.
        annotations: The JSON file.
        name: What results call the data set.
    """

    images: Path
    annotations: Path
    name: str = "coco"


@dataclass(frozen=True, slots=True)
class CocoInstance:
    """One object of an image.

    Attributes:
        id: The annotation's own.
        box: ``(x, y, width, height)`` in pixels, as in the file.
        label: Contiguous class number from 0.
        segmentation: Polygons ``[[x0, y0, x1, y1, ...], ...]``, a compressed run-length code of the
            image's size, or ``None`` where masks were not asked for.
        area: In square pixels: the file's, or the box's where it has none.
        crowd: Whether it stands for a group, which is evaluated with care and never trained on.
        polygons_left_out: Of fewer than three points, beside those in ``segmentation``.
        blank: Whether the mask has no pixel.
    """

    id: int
    box: tuple[float, float, float, float]
    label: int
    segmentation: Polygons | Code | None
    area: float
    crowd: bool
    polygons_left_out: int = 0
    blank: bool = False

    @property
    def empty(self) -> bool:
        """Whether the box has no area."""
        return self.box[2] <= 0 or self.box[3] <= 0


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image and what is in it.

    Attributes:
        id: The image's own in the file.
        path: Its file.
        width: In pixels, of the image turned upright by its EXIF orientation.
        height: Likewise.
        instances: All that the file says, crowds and empty boxes too.
    """

    id: int
    path: Path
    width: int
    height: int
    instances: tuple[CocoInstance, ...]

    @property
    def trainable(self) -> tuple[CocoInstance, ...]:
        """What a detector is trained on: no crowds, no boxes without area, no blank masks."""
        return tuple(i for i in self.instances if not (i.crowd or i.empty or i.blank))


@dataclass(frozen=True)
class CocoData:
    """A split that has been read and checked.

    Attributes:
        source: Where it lies.
        split: ``"train"`` or ``"val"``.
        images: All images of the file, in its order.
        category_ids: The data set's own id of each contiguous class number, rising.
        class_names: Name of each contiguous class number.
        remarks: What else was noticed, one sentence each.
    """

    source: CocoSource
    split: Split
    images: tuple[CocoImage, ...]
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def with_remarks(self, remarks: Iterable[str]) -> CocoData:
        """The same data, with more that was noticed."""
        return replace(self, remarks=(*self.remarks, *remarks))

    @property
    def name(self) -> str:
        """What results call the data set."""
        return self.source.name

    @cached_property
    def training_images(self) -> tuple[CocoImage, ...]:
        """Images with at least one object to train on, as Detectron2 filters them."""
        return tuple(image for image in self.images if image.trainable)

    @cached_property
    def has_codes(self) -> bool:
        """Whether an object to train on has its mask as a run-length code, not as polygons."""
        return any(isinstance(i.segmentation, dict) for m in self.images for i in m.trainable)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Numbers of images and instances, and of what is not trained on."""
        instances = [i for image in self.images for i in image.instances]
        return {
            "images": len(self.images),
            "images_without_objects": len(self.images) - len(self.training_images),
            "instances": len(instances),
            "crowds": sum(i.crowd for i in instances),
            "empty_boxes": sum(i.empty for i in instances),
            "run_length_masks": sum(isinstance(i.segmentation, dict) for i in instances),
            "blank_masks": sum(i.blank for i in instances),
            "polygons_left_out": sum(i.polygons_left_out for i in instances),
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not trained or evaluated on as it stands, one sentence each."""
        counts, file = self.counts, self.source.annotations
        said = []
        if counts["empty_boxes"]:
            use = "left out of training" if self.split == "train" else "kept for the evaluation"
            said.append(
                f"{counts['empty_boxes']} boxes of {file} have no area and are {use}, as in "
                "Detectron2."
            )
        if counts["crowds"] and self.split == "train":
            said.append(f"{counts['crowds']} crowd regions of {file} are left out of training.")
        if counts["crowds"] and self.split == "val":
            said.append(
                f"{counts['crowds']} crowd regions of {file} count neither as found nor as missed."
            )
        if counts["blank_masks"]:
            use = (
                "are left out of training, as in Detectron2"
                if self.split == "train"
                else "count as missed whatever is detected"
            )
            said.append(f"{counts['blank_masks']} masks of {file} have no pixel and {use}.")
        said += self.polygon_notes
        if counts["images_without_objects"] and self.split == "train":
            said.append(
                f"{counts['images_without_objects']} images of {file} have nothing to train on "
                "and are left out."
            )
        return (*said, *self.remarks)

    @property
    def polygon_notes(self) -> tuple[str, ...]:
        """How many polygons are left out of masks, in a sentence, if any."""
        if not (count := self.counts["polygons_left_out"]):
            return ()
        return (
            f"{count} polygons of {self.source.annotations} have fewer than three points or half a "
            "point and are left out beside the good ones of their objects, as in Detectron2.",
        )
