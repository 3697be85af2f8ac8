"""COCO's average precision of boxes and masks, by pycocotools or faster-coco-eval.

Both are imported late and may be absent.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from erssl.downstream.detection.coco import CocoData, CocoImage
from erssl.downstream.detection.job import Detected, Evaluator
from erssl.downstream.detection.predictions import check_predictions

GROUND_TRUTH = "ground_truth"  # under which Detectron2's catalogue has what was read
Kind: TypeAlias = Literal["bbox", "segm"]
# module and name of the data set's class, and of the evaluation's
_CLASSES: Mapping[Evaluator, tuple[tuple[str, str], tuple[str, str]]] = {
    "pycocotools": (("pycocotools.coco", "COCO"), ("pycocotools.cocoeval", "COCOeval")),
    "faster-coco-eval": (("faster_coco_eval", "COCO"), ("faster_coco_eval", "COCOeval_faster")),
}
_PREFIX: Mapping[Kind, str] = {"bbox": "box", "segm": "mask"}
_STATISTICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first six that COCOeval gives


def metric_names(kind: Kind) -> tuple[str, ...]:
    """Names of the metrics: ``box_AP``, ``box_AP50``, ``box_AP75``, ``box_APs`` ..."""
    return tuple(f"{_PREFIX[kind]}_{statistic}" for statistic in _STATISTICS)


def coco_metrics(
    predictions: Sequence[Mapping[str, Any]],
    data: CocoData,
    kinds: Sequence[Kind],
    evaluator: Evaluator = "pycocotools",
) -> dict[str, float]:
    """Average precision of predictions.

    Args:
        predictions: In COCO's format of results: ``image_id`` and ``category_id`` of the data set,
            ``bbox`` as (x, y, width, height), ``score``, and ``segmentation`` as a run-length code
            where masks are evaluated.
        data: What is in the images.
        kinds: ``"bbox"`` for boxes, ``"segm"`` for masks.
        evaluator: ``"pycocotools"``, COCO's own and the reference; ``"faster-coco-eval"``, the same
            comparison in C++ (equal values in the tests, several times as fast).

    Returns:
        AP (mean over IoU of 0.5 to 0.95), AP50, AP75, and AP of small (below 32² pixels), medium
        (to 96²) and large objects, each in [0, 1]; one that nothing could be evaluated by, such as
        that of small objects where there are none, is left out.

    Raises:
        DataError: If predictions are not finite or do not fit the data.
    """
    dataset_class, evaluation_class = (
        getattr(importlib.import_module(module), name) for module, name in _CLASSES[evaluator]
    )
    check_predictions(predictions, data, masks="segm" in kinds)
    metrics: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):  # of every step, and the table
        truth = dataset_class()
        truth.dataset = ground_truth(data)
        truth.createIndex()
        for kind in kinds:
            names = metric_names(kind)
            if not predictions:  # which pycocotools takes for a broken file
                metrics |= dict.fromkeys(names[:3], 0.0)
                continue
            detections = truth.loadRes([_evaluated_by(p, kind) for p in predictions])
            evaluate = evaluation_class(truth, detections, kind)
            evaluate.evaluate()
            evaluate.accumulate()
            evaluate.summarize()
            pairs = zip(names, evaluate.stats[: len(names)], strict=True)
            metrics |= {name: float(value) for name, value in pairs if value >= 0}
    return metrics


def ground_truth(data: CocoData) -> dict[str, Any]:
    """The data set as pycocotools holds it, with annotations numbered from 1.

    pycocotools keeps the number of the object that a prediction found and reads 0 as "none", so
    that a file whose numbers begin with 0 loses an object.
    """
    entries: list[dict[str, Any]] = []
    for image in data.images:
        for instance in image.instances:
            entry = {
                "id": len(entries) + 1,
                "image_id": image.id,
                "category_id": data.category_ids[instance.label],
                "bbox": list(instance.box),
                "area": instance.area,
                "iscrowd": int(instance.crowd),
            }
            if instance.segmentation is not None:
                entry["segmentation"] = instance.segmentation
            entries.append(entry)
    classes = zip(data.category_ids, data.class_names, strict=True)
    return {
        "info": {},
        "images": [{"id": i.id, "width": i.width, "height": i.height} for i in data.images],
        "categories": [{"id": number, "name": name} for number, name in classes],
        "annotations": entries,
    }


def coco_results(detections: Iterable[Detected], data: CocoData) -> list[dict[str, Any]]:
    """Detections in COCO's format of results."""
    results = []
    for each in detections:
        image: CocoImage = data.images[each.index]
        none: list[dict[str, Any] | None] = [None] * len(each.boxes)
        masks: Sequence[dict[str, Any] | None] = each.masks or none
        for (x0, y0, x1, y1), label, score, mask in zip(
            each.boxes, each.labels, each.scores, masks, strict=True
        ):
            entry = {
                "image_id": image.id,
                "category_id": data.category_ids[label],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": score,
            }
            results.append(entry if mask is None else {**entry, "segmentation": mask})
    return results


def _evaluated_by(prediction: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """What pycocotools reads: of masks it takes size from the mask only where there is no box."""
    left_out = "segmentation" if kind == "bbox" else "bbox"
    return {key: value for key, value in prediction.items() if key != left_out}
