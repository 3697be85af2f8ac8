"""Data sets that were read and checked, as Detectron2 wants them: imported only where it is."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from erssl.downstream.detection.coco import CocoData, CocoImage, CocoInstance
from erssl.downstream.detection.evaluation import GROUND_TRUTH, ground_truth
from erssl.downstream.detection.voc import VocData


def register(data: CocoData | VocData) -> str:
    """Make a split known to Detectron2.

    Args:
        data: What was read.

    Returns:
        Name under which its catalogues have it: one of its own for each call, since Detectron2
        takes a name only once.
    """
    name = f"erssl_{data.split}_{uuid.uuid4().hex[:8]}"
    images = data.training_images if data.split == "train" else data.images
    records = [_record(image, data) for image in images]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=list(data.class_names), **_about(data))
    return name


def forget(names: Sequence[str]) -> None:
    """Take splits out of Detectron2's catalogues again."""
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def _about(data: CocoData | VocData) -> dict[str, Any]:
    """What Detectron2's evaluators ask for."""
    if isinstance(data, VocData):
        last = data.splits[-1]
        about = {"dirname": str(last.folder), "year": last.year, "split": last.name}
        return {"evaluator_type": "pascal_voc", **about}
    numbers = {category: number for number, category in enumerate(data.category_ids)}
    return {
        "evaluator_type": "coco",
        "json_file": str(data.source.annotations),
        "image_root": str(data.source.images),
        # what was read, in place of what the file says: masks that were checked, numbered from 1
        GROUND_TRUTH: ground_truth(data),
        "thing_dataset_id_to_contiguous_id": numbers,
    }


def _record(image: CocoImage, data: CocoData | VocData) -> dict[str, Any]:
    return {
        "file_name": str(image.path),
        # the evaluator of VOC goes by the name of the file, that of COCO by the id
        "image_id": image.path.stem if isinstance(data, VocData) else image.id,
        "height": image.height,
        "width": image.width,
        "annotations": [_annotation(i) for i in image.trainable],
    }


def _annotation(instance: CocoInstance) -> dict[str, Any]:
    about: dict[str, Any] = {
        "bbox": list(instance.box),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": instance.label,
        "iscrowd": 0,
    }
    if instance.segmentation is not None:
        about["segmentation"] = instance.segmentation
    return about
