"""The images that ``erssl detect`` trains on and is evaluated by."""

from __future__ import annotations

import hashlib

from erssl.downstream.detection.coco import (
    CocoSource,
    check_images,
    check_same_categories,
    coco_layout,
    read_coco,
)
from erssl.downstream.detection.coco_data import CocoData
from erssl.downstream.detection.voc import VocData, read_voc
from erssl.paths import user_path
from erssl.settings.detection import DetectSettings


def read_data(settings: DetectSettings, workers: int) -> list[CocoData | VocData]:
    """Training and validation split, checked as far as that can be done before training.

    Args:
        settings: Which data.
        workers: Threads to decode images with.

    Raises:
        DataError: If they cannot be used.
    """
    recipe = settings.chosen
    both: list[CocoData | VocData]
    if recipe.data == "voc":
        root = user_path(str(settings.data_root))
        both = [read_voc(root, "train"), read_voc(root, "val")]
    else:
        train_source, val_source = _sources(settings)
        masks = recipe.head == "mask"
        train, val = read_coco(train_source, "train", masks), read_coco(val_source, "val", masks)
        check_same_categories(train, val)
        both = [train, val]
    if settings.verify and not settings.eval_only:
        return [data.with_remarks(check_images(data, workers)) for data in both]
    return [*both]


def _sources(settings: DetectSettings) -> list[CocoSource]:
    """Training and validation split."""
    if settings.data_root is not None:
        return [*coco_layout(user_path(settings.data_root))]
    sources = []
    for split in ("train", "val"):
        images, annotations = (
            user_path(getattr(settings, f"{split}_{what}")) for what in ("images", "annotations")
        )
        sources.append(CocoSource(images, annotations, annotations.stem))
    return sources


def data_digests(
    settings: DetectSettings, train: CocoData | VocData, val: CocoData | VocData
) -> dict[str, str]:
    """What a training that is resumed began with, whatever its files are called."""
    digests = {}
    for what, data in (("training", train), ("validation", val)):
        if isinstance(data, CocoData):
            content = data.source.annotations.read_bytes()
        else:
            content = repr([(image.path.name, image.instances) for image in data.images]).encode()
        digests[f"{what}_annotations"] = hashlib.sha256(content).hexdigest()
    return digests
