"""COCO's average precision of boxes by pycocotools and by faster-coco-eval: time and equality.

    python -m benchmarks.coco_evaluation [--images 5000] [--turns 3]

Synthetic objects of 80 classes, eleven an image, with six detections of each: moved, some of
another class, with tied scores. Each evaluator gets the same predictions in turn; CPU seconds of
the whole call, medians. Writes ``benchmarks/results/coco_evaluation.json``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np

from benchmarks._runs import RESULTS
from erssl.downstream.detection.coco import CocoData, CocoImage, CocoInstance, CocoSource
from erssl.downstream.detection.evaluation import coco_metrics
from erssl.downstream.detection.job import Evaluator
from erssl.files import write_json
from erssl.run.directory import environment

CLASSES, OBJECTS, DETECTIONS, SIZE = 80, 11, 6, 480


def setting(images: int) -> tuple[CocoData, list[dict[str, Any]]]:
    """Annotations and predictions."""
    generator = np.random.default_rng(0)
    kept: list[CocoImage] = []
    predictions: list[dict[str, Any]] = []
    for index in range(images):
        instances = []
        for number in range(OBJECTS):
            side = np.exp(generator.uniform(np.log(8), np.log(240), 2))
            x, y = generator.uniform(0, SIZE - side)
            box = (float(x), float(y), float(side[0]), float(side[1]))
            label = int(generator.integers(CLASSES))
            area = box[2] * box[3]
            instances.append(
                CocoInstance(OBJECTS * index + number, box, label, None, area, number == 10)
            )
            for _ in range(DETECTIONS):
                shift = generator.normal(0, 0.1, 4)
                moved = [x + side[0] * shift[0], y + side[1] * shift[1], *side * np.exp(shift[2:])]
                other = generator.random() < 0.2
                predictions.append(
                    {
                        "image_id": index,
                        "category_id": int(generator.integers(CLASSES)) if other else label,
                        "bbox": [float(value) for value in moved],
                        "score": float(np.round(generator.random(), 2)),
                    }
                )
        kept.append(CocoImage(index, Path(f"{index}.jpg"), SIZE, SIZE, tuple(instances)))
    numbers = tuple(range(CLASSES))
    names = tuple(f"class {number}" for number in numbers)
    data = CocoData(CocoSource(Path(), Path()), "val", tuple(kept), numbers, names)
    return data, predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    data, predictions = setting(arguments.images)
    evaluators: tuple[Evaluator, ...] = get_args(Evaluator)
    seconds: dict[str, list[float]] = {name: [] for name in evaluators}
    metrics: dict[str, dict[str, float]] = {}
    for _ in range(arguments.turns):
        for name in evaluators:
            began = time.process_time()
            metrics[name] = coco_metrics(predictions, data, ("bbox",), name)
            seconds[name].append(time.process_time() - began)
    reference, faster = (median(seconds[name]) for name in evaluators)
    report = {
        "images": arguments.images,
        "predictions": len(predictions),
        "cpu_seconds": {name: median(values) for name, values in seconds.items()},
        "times_as_fast": reference / faster,
        "largest_difference": max(
            abs(value - metrics[evaluators[1]][key])
            for key, value in metrics[evaluators[0]].items()
        ),
        "metrics": metrics[evaluators[0]],
        "environment": environment(),
    }
    write_json(RESULTS / "coco_evaluation.json", report)
    print(report)


if __name__ == "__main__":
    main()
