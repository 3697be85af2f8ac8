"""What can be wrong with an entry of a COCO file, in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from erssl.errors import DataError

_NAMED = 5
_NO_MASK = "have no mask, which Mask R-CNN is trained and judged on"
_ODD = "have a polygon that is not three points (x, y) or more"
_CODE = "have a run-length code that does not fit its size"


def some(names: Iterable[object]) -> str:
    """List at most five names, and how many there are beyond them."""
    every = [str(name) for name in names]
    more = f", and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more


def require_unique(entries: Sequence[dict[str, Any]], what: str, file: Path) -> None:
    """Make sure that every entry has an id of its own.

    Raises:
        DataError: If one has none, or two have the same.
    """
    ids = [entry.get("id") for entry in entries]
    if wrong := [i for i in ids if not isinstance(i, int) or isinstance(i, bool)]:
        raise DataError(f"{len(wrong)} {what} of {file} have no whole number as id; add them.")
    if twice := [i for i, count in Counter(ids).items() if count > 1]:
        raise DataError(
            f"{len(twice)} ids of {what} in {file} occur more than once ({some(twice)}); give each "
            "entry an id of its own."
        )


def fault_of_box(entry: dict[str, Any]) -> str | None:
    """What is wrong with the box of an annotation; one without area is not wrong."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_finite(v) for v in box):
        return "have no box of four finite numbers [x, y, width, height]"
    return None


def fault_of_facts(entry: dict[str, Any]) -> str | None:
    """What is wrong with the image, the area or the mark of a crowd; all but the first may lack.

    An entry without an image is left to the check of the images.
    """
    image, area, crowd = entry.get("image_id", -1), entry.get("area", 0.0), entry.get("iscrowd", 0)
    if not isinstance(image, int):
        return "have an image_id that is no whole number"
    if not _finite(area):
        return "have an area that is no finite number"
    return None if isinstance(crowd, int) else "have an iscrowd that is neither 0 nor 1"


def fault_of_segmentation(entry: dict[str, Any]) -> str | None:
    """What is wrong with the mask of an annotation."""
    mask = entry.get("segmentation")
    if isinstance(mask, dict):
        return None if _fits(mask) else _CODE
    if not isinstance(mask, list) or not mask:
        return _NO_MASK
    sound = (
        isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(_finite(v) for v in p)
        for p in mask
    )
    return None if all(sound) else _ODD


def _fits(code: dict[str, Any]) -> bool:
    """Whether a run-length code covers the image that it names."""
    size, counts = code.get("size"), code.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(v, int) for v in size):
        return False
    if isinstance(counts, str):  # compressed; its own reader checks it
        return bool(counts)
    if not isinstance(counts, list) or not all(isinstance(c, int) and c >= 0 for c in counts):
        return False
    return bool(sum(counts) == size[0] * size[1])


def _finite(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # of a whole number that no float holds
        return False
