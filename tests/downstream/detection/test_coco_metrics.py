"""Average precision of hand-made cases, whose value is known in closed form."""

from pathlib import Path

import numpy as np
import pytest

from erssl.downstream.detection.coco import CocoData, CocoImage, CocoInstance, CocoSource
from erssl.downstream.detection.evaluation import coco_metrics, coco_results, metric_names
from erssl.downstream.detection.job import Detected

from .conftest import polygon

BOX = (10.0, 10.0, 40.0, 40.0)  # 1600 square pixels: "medium"
FAR = (100.0, 100.0, 40.0, 40.0)


def truth(*boxes, first_id=1, crowd=()):
    instances = tuple(
        CocoInstance(first_id + i, box, 0, polygon(box), box[2] * box[3], i in crowd)
        for i, box in enumerate(boxes)
    )
    image = CocoImage(7, Path("a.jpg"), 200, 200, instances)
    return CocoData(CocoSource(Path(), Path()), "val", (image,), (3, 9), ("square", "bar"))


def detections(*pairs, label=0):
    """Detections of one image, of (box, score)."""
    from pycocotools import mask as codes

    masks = []
    for box, _ in pairs:
        code = codes.frPyObjects(polygon(box), 200, 200)[0]
        masks.append({"size": code["size"], "counts": code["counts"].decode()})
    corners = [(x, y, x + w, y + h) for (x, y, w, h), _ in pairs]
    scores = [score for _, score in pairs]
    return [Detected(0, corners, [label] * len(pairs), scores, masks)]


def evaluate(data, detections, kinds=("bbox", "segm")):
    """The metrics by pycocotools, which those of faster-coco-eval have to equal."""
    results = coco_results(detections, data)
    metrics = coco_metrics(results, data, kinds)
    assert coco_metrics(results, data, kinds, "faster-coco-eval") == pytest.approx(
        metrics, abs=1e-12
    )
    return metrics


def test_all_found_is_one():
    metrics = evaluate(truth(BOX, FAR), detections((BOX, 0.9), (FAR, 0.8)))
    assert set(metrics) == {
        "box_AP",
        "box_AP50",
        "box_AP75",
        "box_APm",
        "mask_AP",
        "mask_AP50",
        "mask_AP75",
        "mask_APm",
    }  # small and large objects there are none
    assert all(value == pytest.approx(1) for value in metrics.values())


def test_half_found_is_the_share_of_recall_points():
    metrics = evaluate(truth(BOX, FAR), detections((BOX, 0.9)))
    assert metrics["box_AP"] == pytest.approx(51 / 101)  # recall 0, 0.01, ..., 0.5 of 101 points
    assert metrics["mask_AP"] == pytest.approx(51 / 101)


def test_a_better_scored_mistake_halves_precision():
    metrics = evaluate(truth(BOX), detections((FAR, 0.9), (BOX, 0.8)))
    assert metrics["box_AP50"] == pytest.approx(0.5)
    metrics = evaluate(truth(BOX), detections((FAR, 0.7), (BOX, 0.8)))
    assert metrics["box_AP50"] == pytest.approx(1)  # it comes after full recall


def test_overlap_counts_up_to_its_own_threshold():
    wide = (10.0, 10.0, 60.0, 40.0)  # IoU 40 * 40 / (60 * 40) = 2/3: 0.5, 0.55, 0.6, 0.65
    metrics = evaluate(truth(BOX), detections((wide, 0.9)))
    for kind in ("box", "mask"):
        assert metrics[f"{kind}_AP"] == pytest.approx(4 / 10)
        assert metrics[f"{kind}_AP50"] == pytest.approx(1)
        assert metrics[f"{kind}_AP75"] == pytest.approx(0)


def test_wrong_class_is_not_found():
    assert evaluate(truth(BOX), detections((BOX, 0.9), label=1))["box_AP"] == 0


def test_inside_a_crowd_is_neither_found_nor_wrong():
    data = truth(BOX, (90.0, 90.0, 100.0, 100.0), crowd={1})
    metrics = evaluate(data, detections((FAR, 0.9), (BOX, 0.8)))
    assert metrics["box_AP"] == pytest.approx(1)
    assert metrics["mask_AP"] == pytest.approx(1)


def test_annotation_of_number_0_counts():
    """pycocotools alone takes 0 for "no object found"."""
    assert evaluate(truth(BOX, first_id=0), detections((BOX, 0.9)))["box_AP"] == pytest.approx(1)


def test_sizes():
    small, large = (5.0, 5.0, 20.0, 20.0), (30.0, 30.0, 120.0, 120.0)
    metrics = evaluate(truth(small, large), detections((small, 0.9)), ("bbox",))
    assert metrics["box_APs"] == pytest.approx(1)
    assert metrics["box_APl"] == 0
    assert "box_APm" not in metrics


def test_nothing_found_is_zero_and_nothing_is_printed(capsys):
    metrics = evaluate(truth(BOX), [])
    assert metrics == dict.fromkeys((*metric_names("bbox")[:3], *metric_names("segm")[:3]), 0)
    evaluate(truth(BOX), detections((BOX, 0.5)))
    assert capsys.readouterr().out == ""


def test_both_evaluators_agree_on_many_random_detections():
    """Several images, sizes and classes, crowds, tied scores, more than 100 detections of one."""
    from pycocotools import mask as codes

    generator = np.random.default_rng(0)

    def box():
        x, y = generator.uniform(0, 150, 2)
        w, h = generator.uniform(2, 120, 2)
        return float(x), float(y), float(min(w, 199 - x)), float(min(h, 199 - y))

    images, found = [], []
    for index, count in enumerate((0, 3, 8, 15)):
        boxes = [box() for _ in range(count)]
        instances = tuple(
            CocoInstance(100 * index + i, b, i % 2, polygon(b), b[2] * b[3], i % 5 == 4)
            for i, b in enumerate(boxes)
        )
        images.append(CocoImage(index, Path(f"{index}.jpg"), 200, 200, instances))
        near = [
            tuple(np.clip(np.array(b) + generator.normal(0, 3, 4), 1, 198).tolist())
            for b in boxes
            for _ in range(8)
        ]
        corners = [(x, y, min(x + w, 199.5), min(y + h, 199.5)) for x, y, w, h in near]
        masks = []
        for x0, y0, x1, y1 in corners:
            code = codes.frPyObjects(polygon((x0, y0, x1 - x0, y1 - y0)), 200, 200)[0]
            masks.append({"size": code["size"], "counts": code["counts"].decode()})
        scores = generator.integers(1, 20, len(corners)) / 20
        labels = generator.integers(0, 2, len(corners)).tolist()
        found.append(Detected(index, corners, labels, scores.tolist(), masks))
    data = CocoData(CocoSource(Path(), Path()), "val", tuple(images), (3, 9), ("square", "bar"))
    metrics = evaluate(data, found)
    assert 0.05 < metrics["mask_AP"] < 0.95
