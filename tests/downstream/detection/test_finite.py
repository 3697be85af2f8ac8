"""Predictions and outputs that are NaN or infinite, or do not fit the data."""

import pytest
import torch
from torch import nn

from erssl.downstream.detection.coco import coco_layout, read_coco
from erssl.downstream.detection.evaluation import coco_metrics
from erssl.downstream.detection.finite import counting
from erssl.downstream.detection.torchvision_backend import _evaluate
from erssl.downstream.detection.torchvision_model import build_detector
from erssl.errors import DataError
from erssl.models import build_backbone

from .test_coco_metrics import BOX, detections, truth
from .test_torchvision_backend import STATISTICS, job  # noqa: F401

NAN, INFINITY = float("nan"), float("inf")


def predictions(**changed):
    data = truth(BOX)
    mask = detections((BOX, 0.9))[0].masks[0]
    usual = {"image_id": 7, "category_id": 3, "bbox": list(BOX), "score": 0.9, "segmentation": mask}
    return [usual, {**usual, **changed}], data


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"score": NAN}, r"score or box that is NaN .*counts as detected"),
        ({"score": INFINITY}, "score or box that is NaN"),
        ({"bbox": [NAN, 0, 1, 1]}, "score or box that is NaN"),
        ({"bbox": [0, 0, INFINITY, 1]}, "score or box that is NaN"),
        ({"image_id": 8}, "images that are not in the data"),
        ({"category_id": 4}, "categories that are not in the data"),
        ({"segmentation": {"size": [100, 100], "counts": [10_000]}}, "of another size"),
        ({"segmentation": {"size": [200, 200], "counts": "11"}}, "does not fit its size"),
    ],
)
def test_predictions_that_would_be_miscounted_are_refused(changed, says):
    wrong, data = predictions(**changed)
    with pytest.raises(DataError, match=rf"1 of the 2 predictions \(image ids [78]\) .*{says}"):
        coco_metrics(wrong, data, ("bbox", "segm"))


def test_rows_are_counted_once_for_scores_and_boxes():
    class Predictor(nn.Module):
        def forward(self, rows):
            return rows, [rows.repeat(1, 4)]

    predictor = Predictor()
    rows = torch.zeros(5, 2)
    rows[1, 0], rows[3] = NAN, INFINITY
    with counting([predictor]) as counted:
        predictor(rows)
        predictor(torch.zeros(0, 2))
    predictor(rows)  # is not watched any more
    assert counted.rows == 2


@pytest.mark.parametrize("part", ["rpn.head.cls_logits", "roi_heads.mask_predictor.conv5_mask"])
def test_a_detector_that_computes_nan_says_so(job, part):  # noqa: F811
    torch.manual_seed(0)
    detector = build_detector(build_backbone("resnet18"), 2, STATISTICS, 8)
    detector.roi_heads.score_thresh, detector.roi_heads.detections_per_img = 0.0, 3
    assert _evaluate(job, detector, 0)[1] == 0
    nn.init.constant_(detector.get_submodule(part).bias, NAN)
    detected, rows = _evaluate(job, detector, 0)
    assert rows == (1 if part.startswith("rpn") else 3)
    assert [len(each.boxes) for each in detected] == [0 if part.startswith("rpn") else 3]


def test_boxes_alone_need_no_mask_head(coco, job, tmp_path):  # noqa: F811
    from dataclasses import replace

    from erssl.downstream.detection.recipes import RECIPES, scaled
    from erssl.downstream.detection.torchvision_backend import run

    recipe = RECIPES["faster_rcnn_fpn_1x"]
    train, val = (
        read_coco(source, split, masks=False)
        for source, split in zip(coco_layout(coco), ("train", "val"), strict=True)
    )
    outcome = run(replace(job, recipe=recipe, schedule=scaled(recipe, 2, 2), train=train, val=val))
    assert {"box_AP", "box_AP50"} <= set(outcome.metrics)
    assert not any(name.startswith("mask") for name in outcome.metrics)
    assert all(each.masks is None for each in outcome.predictions)
