"""Whether a COCO file as a whole can be what it says: the conventions that exporters mix up."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erssl.downstream.detection.coco_data import CocoData, CocoImage, CocoInstance
from erssl.downstream.detection.masks import box_around
from erssl.errors import DataError, named

_MOST = 0.5  # share from which a fault is that of the file and not of its objects
_ALL_BUT_A_FEW = 0.95
_SLACK = 0.01  # of a side by which a box may leave its image, at least a pixel
_CLOSE = 0.01  # share by which an area may differ from its box's and be the same
_OVERLAP = 0.5  # intersection over union of a box and its mask's, which are the same in COCO
_DEFINITE = 0.9  # overlap of a box that is read another way, from which that way is the right one
_MASKS = 2000  # whose boxes are compared
_COORDINATES = "[x, y, width, height] in pixels"

Boxes = NDArray[np.float64]


def remarks_on(data: CocoData, categories: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Compare boxes with images, areas and masks, and find images and classes without use.

    Args:
        data: A split whose entries are sound one by one.
        categories: The file's own, with ``supercategory`` where it says that.

    Returns:
        What a reader of the result must know, one sentence each.

    Raises:
        DataError: If boxes or masks are plainly of another convention, or a validation image is
            listed twice.
    """
    pairs = [(i, m) for m in data.images for i in m.instances if not (i.crowd or i.empty)]
    remarks = []
    if pairs:
        boxes = np.array([instance.box for instance, _ in pairs])
        sizes = np.array([(image.width, image.height) for _, image in pairs], dtype=float)
        areas = np.array([instance.area for instance, _ in pairs])
        _refuse_relative(data, boxes)
        _refuse_corners(data, boxes, sizes, areas)
        remarks += [*_outside(data, boxes, sizes), *_areas(data, boxes, areas)]
        remarks += _masks(data, pairs)
    return (*remarks, *_twice(data), *_unused(data, categories))


def _refuse_relative(data: CocoData, boxes: Boxes) -> None:
    """All boxes smaller than a pixel: coordinates from 0 to 1."""
    if float(boxes[:, 2:].max()) < 1:
        relative = float(np.abs(boxes).max()) <= 1
        cause = "they look relative to the image, from 0 to 1" if relative else "of another unit"
        raise DataError(
            f"All {len(boxes)} boxes of {data.source.annotations} are smaller than a pixel; "
            f"{cause}: write {_COORDINATES}."
        )


def _refuse_corners(data: CocoData, boxes: Boxes, sizes: Boxes, areas: Boxes) -> None:
    """Boxes that leave their images, or contradict their areas, and as corners do neither."""
    sides = boxes[:, 2:] - boxes[:, :2]
    fits = (sides > 0).all(1) & ~_leaves(boxes[:, :2], sides, sizes)
    leaves = _leaves(boxes[:, :2], boxes[:, 2:], sizes)
    of_corners = _same(areas, sides.prod(1)) & ~_same(areas, boxes[:, 2:].prod(1))
    if fits.mean() > _ALL_BUT_A_FEW and (leaves.mean() > _MOST or of_corners.mean() > _MOST):
        why = (
            f"{int(leaves.sum())} of {len(boxes)} leave their image"
            if leaves.mean() > _MOST
            else f"{int(of_corners.sum())} of {len(boxes)} have the area of such a box"
        )
        raise DataError(
            f"The boxes of {data.source.annotations} look like corners [x0, y0, x1, y1] ({why}, "
            f"and as corners they lie within); write {_COORDINATES}."
        )


def _outside(data: CocoData, boxes: Boxes, sizes: Boxes) -> list[str]:
    leaves = _leaves(boxes[:, :2], boxes[:, 2:], sizes)
    if leaves.mean() <= _MOST:
        return []
    return [
        f"{int(leaves.sum())} of the {len(boxes)} boxes of {data.source.annotations} leave their "
        f"image: they should be {_COORDINATES} of the images as they are, but look as if they were "
        "of a larger copy, or of other images."
    ]


def _areas(data: CocoData, boxes: Boxes, areas: Boxes) -> list[str]:
    """An object's area is at most its box's, and decides whether it counts as small or large."""
    whole = boxes[:, 2:].prod(1)
    wrong = (areas <= 0) | (areas > whole * (1 + 2 * _CLOSE) + 1)
    wrong |= (areas < 1) & (whole > 100)
    if wrong.mean() <= _MOST:
        return []
    cause = "are above their boxes'"
    if float(areas.max()) <= 1:
        cause = "are at most 1, so that they look relative to the image or left out"
    return [
        f"{int(wrong.sum())} of the {len(boxes)} areas of {data.source.annotations} contradict the "
        f"boxes: they {cause}; APs, APm and APl, which sort objects by area, mean nothing then."
    ]


def _masks(data: CocoData, pairs: Sequence[tuple[CocoInstance, CocoImage]]) -> list[str]:
    """Masks that do not lie in their boxes; a sample of them is enough to see that."""
    shown = [(i, m) for i, m in pairs if i.segmentation is not None and not i.blank]
    shown = shown[:: -(-len(shown) // _MASKS)] if shown else []
    if not shown:
        return []
    around = [box_around(i.segmentation or [], m.height, m.width) for i, m in shown]
    masks = np.array(around, dtype=float)
    boxes = np.array([instance.box for instance, _ in shown])
    apart = _overlap(boxes, masks) < _OVERLAP
    if apart.mean() <= _MOST:
        return []
    file, count = data.source.annotations, f"{int(apart.sum())} of {len(shown)} masks"
    if float(masks.max()) <= 1:
        raise DataError(
            f"The polygons of {file} look relative to the image, from 0 to 1 ({count} do not lie "
            "in their boxes); write [x0, y0, x1, y1, ...] in pixels."
        )
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    centres = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], 1)
    for other, what in (
        (corners, "corners [x0, y0, x1, y1]"),
        (centres, "[centre x, centre y, width, height]"),
    ):
        if (_overlap(other, masks) > _DEFINITE).mean() > _ALL_BUT_A_FEW:
            raise DataError(
                f"The boxes of {file} look like {what} ({count} do not lie in their boxes, and "
                f"read like this they do); write {_COORDINATES}."
            )
    return [
        f"{count} of {file} do not lie in their boxes; boxes and masks look as if they were of "
        "different sizes or images, or run-length codes as if they went along rows, where COCO's "
        "go down columns."
    ]


def _twice(data: CocoData) -> list[str]:
    """Images that are listed under several ids, each of which lacks the other's objects."""
    counts = Counter(os.path.normpath(image.path) for image in data.images)
    twice = [os.path.basename(path) for path, count in counts.items() if count > 1]
    if not twice:
        return []
    file = data.source.annotations
    if data.split == "val":
        raise DataError(
            f"{len(twice)} images of {file} are listed more than once ({named(twice)}), so that "
            "what is detected in one counts as wrong by the annotations of the other; join their "
            "entries."
        )
    return [
        f"{len(twice)} images of {file} are listed more than once ({named(twice)}): each entry is "
        "trained on with its own objects alone, so join them unless they have the same."
    ]


def _unused(data: CocoData, categories: Sequence[Mapping[str, Any]]) -> list[str]:
    """Classes that nothing is trained on, such as the root that some exporters put first."""
    used = {i.label for image in data.images for i in image.trainable}
    unused = [n for n in range(len(data.class_names)) if n not in used]
    if data.split != "train" or not unused:
        return []
    above = {str(entry["supercategory"]) for entry in categories if entry.get("supercategory")}
    by_id = {entry["id"]: entry for entry in categories}
    roots = [
        n
        for n in unused
        if data.class_names[n] in above
        or (n == 0 and by_id[data.category_ids[0]].get("supercategory") == "none")
    ]
    remark = (
        f"{len(unused)} of the {len(data.class_names)} categories of {data.source.annotations} "
        f"have no object to train on ({named(data.class_names[n] for n in unused)})"
    )
    if len(roots) == len(unused) == 1:
        remark += (
            "; it looks like the root that some exporters add above the others: take it out of "
            "both files, or leave it as a class that is never detected"
        )
    return [f"{remark}."]


def _leaves(corner: Boxes, sides: Boxes, sizes: Boxes) -> NDArray[np.bool_]:
    """Which boxes leave their images by more than a pixel and a hundredth of the side."""
    slack = np.maximum(1, _SLACK * sizes)
    outside = (corner < -slack) | (corner + sides > sizes + slack)
    return outside[:, 0] | outside[:, 1]


def _same(one: Boxes, other: Boxes) -> NDArray[np.bool_]:
    return np.abs(one - other) <= _CLOSE * np.abs(other)


def _overlap(one: Boxes, other: Boxes) -> Boxes:
    """Intersection over union of boxes (N, 4), pair by pair; 0 where one has no area."""
    low = np.maximum(one[:, :2], other[:, :2])
    high = np.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:])
    both = np.clip(high - low, 0, None).prod(1)
    areas = one[:, 2:].clip(0).prod(1) + other[:, 2:].clip(0).prod(1)
    shares: Boxes = both / np.maximum(areas - both, 1e-9)
    return shares
