"""Predictions in COCO's format of results, checked before pycocotools sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from erssl.downstream.detection.coco_data import CocoData
from erssl.downstream.detection.run_lengths import read_runs
from erssl.errors import DataError, named


def check_predictions(
    predictions: Sequence[Mapping[str, Any]], data: CocoData, masks: bool = False
) -> None:
    """Make sure that pycocotools can compare predictions with annotations.

    It counts a score or box that is NaN as detected, leaves out categories that it does not know,
    and compares masks of different sizes beyond their ends.

    Args:
        predictions: ``image_id``, ``category_id``, ``score``, ``bbox`` and ``segmentation``.
        data: What is in the images.
        masks: Whether masks are compared.

    Raises:
        DataError: If a score or box is not finite, an image or category is not in the data, or a
            mask is no run-length code of its image's size.
    """
    sizes = {image.id: (image.height, image.width) for image in data.images}
    known = set(data.category_ids)
    _refuse(
        [p for p in predictions if p["image_id"] not in sizes],
        predictions,
        "are of images that are not in the data; evaluate on the images that were predicted",
    )
    _refuse(
        [p for p in predictions if p["category_id"] not in known],
        predictions,
        "are of categories that are not in the data; give the data set's own category ids",
    )
    _refuse(
        [p for p in predictions if not is_finite(p)],
        predictions,
        "have a score or box that is NaN or infinite, which pycocotools counts as detected; leave "
        "them out, or train with a smaller learning rate",
    )
    if masks:
        faults: dict[str, list[Mapping[str, Any]]] = {}
        for prediction in predictions:
            try:
                read_runs(prediction["segmentation"], *sizes[prediction["image_id"]])
            except ValueError as error:
                faults.setdefault(str(error), []).append(prediction)
        for fault, wrong in faults.items():
            _refuse(wrong, predictions, f"have a run-length code {fault}; encode them anew")


def is_finite(prediction: Mapping[str, Any]) -> bool:
    """Whether a prediction's score and box are finite."""
    values = np.array([prediction["score"], *prediction.get("bbox", ())], dtype=float)
    return bool(np.isfinite(values).all())


def _refuse(
    wrong: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]], what: str
) -> None:
    if wrong:
        images = dict.fromkeys(prediction["image_id"] for prediction in wrong)
        raise DataError(
            f"{len(wrong)} of the {len(predictions)} predictions (image ids {named(images)}) "
            f"{what}."
        )
