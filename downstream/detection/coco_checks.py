"""What can be wrong with an entry of a COCO file, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erssl.downstream.detection.json_values import finite, whole
from erssl.errors import DataError, named


def require_unique(entries: Sequence[dict[str, Any]], what: str, file: Path) -> None:
    """Make sure that every entry has an id of its own.

    Raises:
        DataError: If one has none, or two have the same.
    """
    ids = [entry.get("id") for entry in entries]
    if wrong := [i for i in ids if not whole(i)]:
        absent = wrong[0] is None
        cause = "none at all; add them" if absent else f"but {wrong[0]!r:.40}; write whole numbers"
        raise DataError(f"{len(wrong)} {what} of {file} have no whole number as id, {cause}.")
    if twice := [i for i, count in Counter(ids).items() if count > 1]:
        raise DataError(
            f"{len(twice)} ids of {what} in {file} occur more than once ({named(twice)}); give "
            "each entry an id of its own."
        )


def fault_of_box(entry: dict[str, Any]) -> str | None:
    """What is wrong with the box of an annotation; one without area is not wrong."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(finite, box)):
        return "have no box of four finite numbers [x, y, width, height]"
    return None


def fault_of_facts(entry: dict[str, Any]) -> str | None:
    """What is wrong with the image, the area or the mark of a crowd; all but the first may lack.

    An entry without an image is left to the check of the images.
    """
    image, area, crowd = entry.get("image_id", -1), entry.get("area", 0.0), entry.get("iscrowd", 0)
    if not isinstance(image, int):
        return "have an image_id that is no whole number"
    if not finite(area):
        return "have an area that is no finite number"
    return None if isinstance(crowd, int) else "have an iscrowd that is neither 0 nor 1"


def fault_of_image(entry: dict[str, Any]) -> str | None:
    """What is wrong with an entry of the images."""
    name: Any = entry.get("file_name")
    sides: tuple[Any, Any] = (entry.get("width"), entry.get("height"))
    if name is None or None in sides:
        return "has no file_name, width and height; add them"
    if not isinstance(name, str):
        return f"has a file_name that is no text ({name!r:.40}); correct it"
    if not all(whole(side) and side > 0 for side in sides):
        return (
            f"has width {sides[0]!r:.20} and height {sides[1]!r:.20}, which are no whole numbers "
            "of pixels; write them as numbers, without quotes"
        )
    return None
