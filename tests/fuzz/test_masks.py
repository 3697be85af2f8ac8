"""Masks of COCO files, and detections of any numbers: what is taken is sound, the rest refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from erssl.downstream.detection.coco import CocoSource, read_coco
from erssl.downstream.detection.evaluation import coco_metrics, coco_results
from erssl.downstream.detection.job import Detected
from erssl.downstream.detection.masks import draw_mask, read_mask
from erssl.downstream.detection.run_lengths import compress
from erssl.errors import DataError

from . import samples
from .harness import Surface, check
from .strategies import as_json, damaged, edits, values

_HEIGHT, _WIDTH = 9, 12  # of the images of samples
_SOUND = (
    [30, 4, 5, 4, 65],
    [0, 108],
    [0, 9, 99],
    "P1",  # of other sizes
    "`0l0",
    "Q11Ng0",
)
_huge = st.sampled_from([2**31, 2**32 + 9, 2**63, 10**30, -1, -(2**40), 1.5, math.nan, True, "9"])
_counts = st.one_of(
    st.sampled_from(_SOUND),
    st.lists(st.one_of(st.integers(0, 120), st.integers(0, 12), _huge), max_size=8),
    st.text(st.characters(min_codepoint=40, max_codepoint=126), max_size=12),
    st.binary(max_size=8).map(repr),  # as a program that prints bytes writes them
    st.sampled_from(["P" * 50_000, "o" * 40, "b'\\x00'", "ÿ", ""]),
    values,
)
_sizes = st.one_of(
    st.just([_HEIGHT, _WIDTH]),
    st.just([_HEIGHT, _WIDTH]),
    st.sampled_from([[_WIDTH, _HEIGHT], [1, 1], [0, 0], [-9, -12], [2**31, 2**31], [9.0, 12.0]]),
    values,
)
_points = st.one_of(
    st.floats(-2, 14), st.floats(), st.sampled_from([1e300, -1e9, 2**40, 119, 121, "3", None])
)
_whole = st.lists(st.integers(0, 13), max_size=8).map(
    lambda runs: [*runs, _HEIGHT * _WIDTH - sum(runs)]
)
_packed = st.tuples(_whole, st.one_of(st.just([]), st.just([]), edits)).map(
    lambda made: damaged(compress(np.array(made[0])).encode(), made[1]).decode("latin-1")
)
_near = st.lists(st.floats(-2, 14), min_size=6, max_size=9)
_segmentations = st.one_of(
    st.fixed_dictionaries({"size": st.just([_HEIGHT, _WIDTH]), "counts": _whole}),
    st.fixed_dictionaries({"size": st.just([_HEIGHT, _WIDTH]), "counts": _packed}),
    st.lists(_near, min_size=1, max_size=2),
    st.fixed_dictionaries({"size": _sizes, "counts": _counts}),
    st.lists(st.lists(_points, max_size=9), max_size=3),
    values,
)


def _act_mask(case: Any, folder: Path) -> None:
    try:
        mask = read_mask(case, _HEIGHT, _WIDTH)
    except ValueError as error:  # the rest of the sentence of an annotation
        raise DataError(f"annotations {error}") from error
    drawn = draw_mask(mask.segmentation, _HEIGHT, _WIDTH)
    assert drawn.shape == (_HEIGHT, _WIDTH)
    assert set(np.unique(drawn)) <= {0, 1}
    assert mask.blank is (isinstance(mask.segmentation, dict) and not drawn.any())


_boxes = st.lists(
    st.one_of(st.floats(0, 12), st.floats(), st.sampled_from([-5, 1e-3, 1e5, 2**31])),
    min_size=4,
    max_size=4,
)
_annotations = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.one_of(st.integers(-1, 3), st.integers(), values),
            "image_id": st.one_of(st.integers(1, 2), values),
            "category_id": st.one_of(st.sampled_from([3, 7]), values),
            "bbox": st.one_of(_boxes, _boxes, values),
            "area": st.one_of(st.floats(0, 100), values),
            "iscrowd": st.sampled_from([0, 0, 0, 1, 2, None]),
            "segmentation": st.one_of(
                st.just([[1, 1, 6, 1, 6, 6]]),
                _segmentations,
            ),
        }
    ),
    max_size=3,
)
_images = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.one_of(st.integers(1, 2), values),
            "file_name": st.sampled_from(["1.png", "2.png", "1.png", "../1.png", "turned.jpg"]),
            "width": st.sampled_from([12, 12, 9, 120, 0, -12, 12.5]),
            "height": st.sampled_from([9, 9, 12, 90]),
        }
    ),
    min_size=1,
    max_size=3,
)


def _act_coco(case: tuple[Any, Any, int, bool], folder: Path) -> None:
    images, annotations, orientation, sound = case
    if sound:  # but for the masks and the orientation
        images = _TRUTH["images"] + [{"id": 3, "file_name": "turned.jpg", "width": 12, "height": 9}]
        masks = [a["segmentation"] for a in annotations] or [[[1, 1, 6, 1, 6, 6]]]
        annotations = [
            {**_TRUTH["annotations"][0], "id": n, "segmentation": mask, "image_id": 1 + n % 3}
            for n, mask in enumerate(masks)
        ]
    for name in ("1.png", "2.png"):
        (folder / name).write_bytes(samples.images()["RGB.png"])
    (folder / "turned.jpg").write_bytes(samples.turned(orientation))
    categories = [{"id": 3, "name": "=square"}, {"id": 7, "name": "<b>bar"}, {"id": 9, "name": "x"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "some.json").write_bytes(as_json(content))
    data = read_coco(CocoSource(folder, folder / "some.json"), "val", masks=True)
    for image in data.images:
        for instance in image.instances:
            assert all(map(math.isfinite, (*instance.box, instance.area)))
            if instance.segmentation is not None:
                drawn = draw_mask(instance.segmentation, image.height, image.width)
                assert set(np.unique(drawn)) <= {0, 1}


_score = st.one_of(st.floats(0, 1), st.floats(), st.sampled_from([math.nan, math.inf, -1.0]))
_detected = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(
            st.lists(st.floats(0, 12), min_size=4, max_size=4),
            st.lists(st.floats(), min_size=4, max_size=4),
        ),
        st.integers(0, 1),
        _score,
    ),
    min_size=1,
    max_size=4,
)
_TRUTH: dict[str, Any] = {
    "images": [
        {"id": n, "file_name": f"{n}.png", "width": _WIDTH, "height": _HEIGHT} for n in (1, 2)
    ],
    "annotations": [
        {"id": n, "image_id": n, "category_id": 3, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
        for n in (1, 2)
    ],
    "categories": [{"id": 3, "name": "square"}, {"id": 7, "name": "bar"}],
}


def _act_detections(case: list[tuple[int, list[float], int, float]], folder: Path) -> None:
    for number in (1, 2):
        (folder / f"{number}.png").write_bytes(samples.images()["RGB.png"])
    (folder / "truth.json").write_text(json.dumps(_TRUTH))
    data = read_coco(CocoSource(folder, folder / "truth.json"), "val", masks=False)
    found = [Detected(i, [(a, b, c, d)], [label], [s]) for i, (a, b, c, d), label, s in case]
    metrics = coco_metrics(coco_results(found, data), data, ["bbox"])
    numbers = [x for _, box, _, score in case for x in (*box, score)]
    assert all(map(math.isfinite, numbers)), "what is not finite was evaluated"
    assert all(0 <= value <= 1 for value in metrics.values())


SURFACES = [
    Surface("masks", _segmentations, _act_mask, share=14),
    Surface(
        "COCO files as a whole, with EXIF orientations",
        st.tuples(_images, _annotations, st.integers(0, 9), st.booleans()),
        _act_coco,
        share=8,
        prepare=samples.images,
    ),
    Surface("detections", _detected, _act_detections, share=6, prepare=samples.images),
]
pytest.importorskip("pycocotools")


def test_any_mask_is_drawn_or_refused() -> None:
    check(SURFACES[0], 120)


def test_any_coco_file_as_a_whole_is_read_or_refused() -> None:
    check(SURFACES[1], 60)


def test_any_detections_are_evaluated_or_refused() -> None:
    check(SURFACES[2], 30)
