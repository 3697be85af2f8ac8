"""Masks of a COCO file: read once, so that training, evaluation and drawing see the same.

``pycocotools`` is imported late, for polygons alone, and may be absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erssl.downstream.detection.coco_data import Code, Polygons
from erssl.downstream.detection.json_values import finite
from erssl.downstream.detection.run_lengths import area, box_of, compress, decode, read_runs

_NO_MASK = "have no mask, which Mask R-CNN needs; recipe=faster_rcnn_fpn_1x takes boxes alone"
_NO_POLYGON = (
    "have a polygon that is no flat list [x0, y0, x1, y1, ...] of three points (x, y) or more"
)
_FAR = "have a polygon that lies farther from its image than ten times its size"
_LEAST = 6  # numbers of a polygon, below which Detectron2 leaves it out
_GO_ON = bytes(range(80, 112))  # characters of a compressed code that end no number
_REACH = 10  # sides of the image; pycocotools takes memory by the length of the outline


@dataclass(frozen=True, slots=True)
class ReadMask:
    """A mask that was read and found sound.

    Attributes:
        segmentation: Polygons, or a compressed run-length code of the image's own size.
        left_out: Polygons of fewer than three points that stood among good ones.
        blank: Whether it is a code without a pixel.
    """

    segmentation: Polygons | Code
    left_out: int = 0
    blank: bool = False


def read_mask(segmentation: Any, height: int, width: int) -> ReadMask:
    """Read the mask of an annotation.

    Polygons of fewer than three points, or with half a point, are left out where others are good,
    as Detectron2's ``load_coco_json`` does; a code is decoded to see that it is one.

    Args:
        segmentation: As in the file.
        height: Of the image, in pixels.
        width: Likewise.

    Returns:
        The mask.

    Raises:
        ValueError: If it is none, with the rest of a sentence that begins with "annotations".
    """
    if isinstance(segmentation, dict):
        try:
            runs = read_runs(segmentation, height, width)
        except ValueError as error:
            raise ValueError(f"have a run-length code {error}") from error
        counts = segmentation["counts"]
        same = isinstance(counts, str) and len(runs) == len(counts.encode().translate(None, _GO_ON))
        code: Code = {"size": [height, width], "counts": counts if same else compress(runs)}
        return ReadMask(code, blank=area(runs) == 0)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(_NO_MASK)
    if not all(isinstance(p, list) and all(map(finite, p)) for p in segmentation):
        raise ValueError(_NO_POLYGON)
    good = [p for p in segmentation if len(p) >= _LEAST and len(p) % 2 == 0]
    if not good:
        raise ValueError(_NO_POLYGON)
    reach = _REACH * max(height, width)
    if any(max(p) > reach or min(p) < -reach for p in good):
        raise ValueError(_FAR)
    return ReadMask(good, left_out=len(segmentation) - len(good))


def draw_mask(
    segmentation: Polygons | Code,
    height: int,
    width: int,
    scale: tuple[float, float] = (1.0, 1.0),
) -> NDArray[np.uint8]:
    """Make the mask (height, width) of zeros and ones.

    Args:
        segmentation: As :func:`read_mask` gives it.
        height: In pixels; of a code, its own.
        width: Likewise.
        scale: What x and y of polygons are multiplied with.
    """
    if isinstance(segmentation, dict):
        whole: NDArray[np.uint8] = decode(read_runs(segmentation, height, width), height, width)
        return whole
    from pycocotools import mask as codes

    scaled = [(np.reshape(p, (-1, 2)) * scale).ravel().tolist() for p in segmentation]
    mask: NDArray[np.uint8] = codes.decode(codes.merge(codes.frPyObjects(scaled, height, width)))
    return mask


def box_around(
    segmentation: Polygons | Code, height: int, width: int
) -> tuple[float, float, float, float] | None:
    """Box (x, y, width, height) around a mask; ``None`` where it has no pixel.

    Args:
        segmentation: As :func:`read_mask` gives it.
        height: Of the image, in pixels.
        width: Likewise.
    """
    if isinstance(segmentation, dict):
        box: tuple[int, int, int, int] | None = box_of(
            read_runs(segmentation, height, width), height
        )
        return box
    across, down = (_extent(segmentation, axis) for axis in (0, 1))
    return across[0], down[0], across[1] - across[0], down[1] - down[0]


def _extent(polygons: Sequence[Sequence[float]], axis: int) -> tuple[float, float]:
    values = [value for polygon in polygons for value in polygon[axis::2]]
    return min(values), max(values)
