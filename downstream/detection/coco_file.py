"""The JSON file of a split: its lists of images, annotations and categories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from erssl.downstream.detection.coco_data import CocoSource, Split
from erssl.errors import DataError

_WHOLE: Mapping[str, tuple[str, ...]] = {
    "images": ("id", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "iscrowd"),
    "categories": ("id",),
}


def load_coco_file(source: CocoSource, split: Split) -> dict[str, list[dict[str, Any]]]:
    """Read the JSON file of a split.

    Numbers that stand for whole ones, such as the ``1.0`` that tables write, become whole ones.

    Args:
        source: Where it lies.
        split: What it is used for, for messages.

    Returns:
        ``images``, ``annotations`` and ``categories``; their entries are not checked.

    Raises:
        DataError: If a file is missing, or the JSON is broken or of another format.
    """
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
    for key, names in _WHOLE.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"{file} has no list {key!r}; it must be COCO's format of instances, with images, "
                "annotations and categories."
            )
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise DataError(f"{file} has entries of {key!r} that are no objects; repair it.")
        for entry in content[key]:
            for name in names:
                value = entry.get(name)
                if isinstance(value, float) and value.is_integer():
                    entry[name] = int(value)
    return {key: content[key] for key in _WHOLE}
