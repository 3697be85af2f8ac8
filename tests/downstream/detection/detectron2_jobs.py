"""Small data sets and jobs for the tests of the Detectron2 backend."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from erssl.downstream.detection.coco import coco_layout, read_coco
from erssl.downstream.detection.job import DetectionJob
from erssl.downstream.detection.recipes import RECIPES, scaled
from erssl.models import build_backbone

needs_detectron2 = [
    pytest.mark.detectron2,
    pytest.mark.skipif(
        find_spec("detectron2") is None,
        reason="Detectron2 is not installed (it is on no package index; see its own guide)",
    ),
]
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
# few regions and small heads, for a CPU
SMALL = [
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    16,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    8,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
    50,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    20,
    "MODEL.RPN.PRE_NMS_TOPK_TEST",
    50,
    "MODEL.RPN.POST_NMS_TOPK_TEST",
    20,
    "MODEL.ROI_BOX_HEAD.FC_DIM",
    32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM",
    16,
    "MODEL.FPN.OUT_CHANNELS",
    32,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    0.0,
]


def make_coco(root, count=5, classes=3, codes=False):
    """A data set in COCO's layout: coloured rectangles on noise, wide and tall images."""
    (root / "annotations").mkdir(parents=True)
    chance = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / f"{split}2017").mkdir()
        images, annotations = [], []
        for number in range(1, count + 1):
            width, height = (64, 48) if number % 3 else (48, 64)
            pixels = chance.integers(0, 60, (height, width, 3), dtype=np.uint8)
            for _ in range(2):
                label = int(chance.integers(classes))
                x, y = (int(chance.integers(2, side - 30)) for side in (width, height))
                w, h = (int(v) for v in chance.integers(12, 28, 2))
                pixels[y : y + h, x : x + w] = 0
                pixels[y : y + h, x : x + w, label % 3] = 230
                polygon = [float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]
                mask = [polygon]
                if codes:  # columns first, background first
                    inside = np.zeros((height, width), bool)
                    inside[y : y + h, x : x + w] = True
                    flat = np.concatenate([[False], inside.T.ravel(), [True]])
                    edges = np.flatnonzero(np.diff(flat)).tolist()
                    runs = np.diff([0, *edges, height * width]).tolist()
                    mask = {"size": [height, width], "counts": runs if runs[-1] else runs[:-1]}
                annotations.append(
                    {
                        "id": len(annotations),  # from 0, which pycocotools takes for "none"
                        "image_id": number,
                        "category_id": 10 * (label + 1),
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": 0,
                        "segmentation": mask,
                    }
                )
            name = f"{number:06d}.png"
            Image.fromarray(pixels).save(root / f"{split}2017" / name)
            images.append({"id": number, "file_name": name, "width": width, "height": height})
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 10 * (c + 1), "name": f"colour {c}"} for c in range(classes)],
        }
        file = root / "annotations" / f"instances_{split}2017.json"
        file.write_text(json.dumps(content))
    return root


def make_job(root, folder, recipe="mask_rcnn_fpn_1x", arch="resnet18", iterations=4, **changed):
    """A job of a few iterations on the CPU."""
    torch.manual_seed(0)
    chosen = RECIPES[recipe]
    to_train, to_evaluate = coco_layout(root)
    usual = {
        "backbone": build_backbone(arch),
        "preprocessing": IMAGENET,
        "recipe": chosen,
        "schedule": scaled(chosen, 2, iterations, 0.001),
        "train": read_coco(to_train, "train"),
        "val": read_coco(to_evaluate, "val"),
        "folder": folder,
        "seed": 3,
        "resume": False,
        "eval_only": False,
        "workers": 0,
        "device": torch.device("cpu"),
        "devices": 1,
        "min_sizes": (48, 64),
        "max_size": 96,
        "test_size": 64,
        "eval_period": 0,
        "checkpoint_period": 2,
        "say": lambda line: None,
    }
    return DetectionJob(**(usual | changed))
