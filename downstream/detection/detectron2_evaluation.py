"""Evaluation by Detectron2, under the names that the project's results have."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.utils import comm

from erssl.downstream.detection.evaluation import GROUND_TRUTH, Kind, metric_names
from erssl.downstream.detection.finite import NOT_FINITE
from erssl.downstream.detection.predictions import is_finite
from erssl.files import write_json

FOLDER = "inference"
DRAWN = f"{FOLDER}/first_images.json"
_TO_DRAW = 12  # images of which the predictions are kept
_KINDS: tuple[Kind, ...] = ("bbox", "segm")
_VALUES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def make_evaluator(cfg: Any, dataset: str) -> list[DatasetEvaluator]:
    """What evaluates the predictions on a data set, and what keeps some of them.

    Args:
        cfg: Detectron2's config.
        dataset: Name in Detectron2's catalogue.
    """
    first = FirstImages(Path(cfg.OUTPUT_DIR) / DRAWN)
    if MetadataCatalog.get(dataset).get("evaluator_type") == "pascal_voc":
        return [PascalVOCDetectionEvaluator(dataset), first]
    tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    folder = str(Path(cfg.OUTPUT_DIR) / FOLDER)
    return [QuietCOCOEvaluator(dataset, tasks, output_dir=folder, use_fast_impl=False), first]


class QuietCOCOEvaluator(COCOEvaluator):
    """COCO's own evaluation (not Detectron2's faster one), which prints no table of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Read the annotations, numbered from 1 as pycocotools needs them.

        It keeps the number of the object that a prediction found and reads 0 as "none".
        """
        super().__init__(*arguments, **options)
        truth = self._metadata.get(GROUND_TRUTH)
        if truth is not None:
            self._coco_api.dataset = truth
        for number, annotation in enumerate(self._coco_api.dataset["annotations"], start=1):
            annotation["id"] = number
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()

    def evaluate(self, img_ids: Any = None) -> Any:
        """Metrics by task, in percent; empty on every process but the first."""
        with contextlib.redirect_stdout(io.StringIO()):
            return super().evaluate(img_ids)

    def _eval_predictions(self, predictions: Any, img_ids: Any = None) -> None:
        """Leave out what is not finite, which pycocotools counts as detected."""
        kept = [{**p, "instances": [*filter(is_finite, p["instances"])]} for p in predictions]
        lost = sum(len(p["instances"]) for p in predictions) - sum(
            len(p["instances"]) for p in kept
        )
        super()._eval_predictions(kept, img_ids)
        if lost:
            self._results[NOT_FINITE] = {NOT_FINITE: float(lost)}


class FirstImages(DatasetEvaluator):
    """Keeps the predictions on the first images, to be drawn; adds no metric."""

    def __init__(self, file: Path) -> None:
        """Say where they go.

        Args:
            file: The JSON file; written by the first process, which has the first images.
        """
        self.file = file
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        self.kept: list[dict[str, Any]] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        """Keep an image's predictions."""
        for output in outputs:
            if len(self.kept) < _TO_DRAW:
                self.kept.append({"index": len(self.kept), **_plain(output["instances"].to("cpu"))})

    def evaluate(self) -> None:
        """Write them."""
        if comm.is_main_process():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, self.kept)


def metrics_of(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Detectron2's results under the project's names.

    Args:
        results: Percent by task and value, such as ``{"bbox": {"AP": 38.9}}``; of each class too.

    Returns:
        Values in [0, 1] by :func:`~erssl.downstream.detection.evaluation.metric_names`; what is not
        defined, such as the AP of small objects where there are none, is left out. Where nothing
        was predicted, Detectron2 has no numbers at all, and AP, AP50 and AP75 are 0.
    """
    metrics: dict[str, float] = {}
    for kind in _KINDS:
        values = results.get(kind, {})
        percent = [values[value] for value in _VALUES if value in values]
        if percent and not any(map(math.isfinite, percent)):
            percent = [0.0, 0.0, 0.0]
        named = zip(metric_names(kind), percent, strict=False)  # VOC has the first three
        metrics |= {name: float(value) / 100 for name, value in named if math.isfinite(value)}
    return metrics


def not_finite(results: Mapping[str, Mapping[str, float]]) -> int:
    """How many outputs of the detector were not finite, by Detectron2's results."""
    return int(results.get(NOT_FINITE, {}).get(NOT_FINITE, 0))


def _plain(instances: Any) -> dict[str, Any]:
    order = np.argsort(-instances.scores.numpy(), kind="stable")
    masks = None
    if instances.has("pred_masks"):
        masks = [_code(instances.pred_masks[int(i)].numpy()) for i in order]
    return {
        "boxes": instances.pred_boxes.tensor.numpy()[order].tolist(),
        "labels": instances.pred_classes.numpy()[order].tolist(),
        "scores": instances.scores.numpy()[order].tolist(),
        "masks": masks,
    }


def _code(mask: Any) -> dict[str, Any]:
    from pycocotools.mask import encode

    code = encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}
