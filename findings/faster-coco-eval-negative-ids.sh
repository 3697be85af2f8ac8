#!/usr/bin/env bash
# faster-coco-eval 1.8.0 beside pycocotools 2.0.11: an object whose annotation id is negative counts
# as missed, where the reference finds it; and an AP limit of 300 detections gives a number, where
# the reference gives -1.
#
# Guess: a drop-in evaluator gives the reference's numbers for any integer id and any maxDets.
# Seen: one object, one perfect box. Id 1: AP 1.0 in both. Id 0: AP 0.0 in both (0 stands for "no
# object" in the table of matches; faster-coco-eval warns of it). Id -5: AP 1.0 in pycocotools and 0.0 here, since an
# id has to be above 0 to count as a match. With params.maxDets = [1, 10, 300], which detectors with
# more than 100 boxes an image set, pycocotools' first statistic is -1 (it looks for 100 in the
# list), faster-coco-eval's is the AP at 300.
# Who meets it: merged or generated annotation files that number new objects downwards, and papers
# whose AP was read by one of the two with a limit other than 100.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q faster-coco-eval==1.8.0 pycocotools==2.0.11 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import contextlib
import io
from importlib.metadata import version

from faster_coco_eval import COCO as FastData
from faster_coco_eval import COCOeval_faster
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print("pycocotools", version("pycocotools"), "faster-coco-eval", version("faster-coco-eval"))
BOX = [10, 10, 40, 40]


def first_statistics(number, limits=None):
    """AP of a perfect detection of one object with this id, by both."""
    values = []
    for data_class, evaluation in ((COCO, COCOeval), (FastData, COCOeval_faster)):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = data_class()
            truth.dataset = {
                "info": {},
                "images": [{"id": 1, "width": 100, "height": 100}],
                "categories": [{"id": 1, "name": "square"}],
                "annotations": [
                    {
                        "id": number, "image_id": 1, "category_id": 1,
                        "bbox": BOX, "area": 1600, "iscrowd": 0,
                    }
                ],
            }
            truth.createIndex()
            found = truth.loadRes([{"image_id": 1, "category_id": 1, "bbox": BOX, "score": 0.9}])
            compare = evaluation(truth, found, "bbox")
            if limits:
                compare.params.maxDets = limits
            compare.evaluate()
            compare.accumulate()
            compare.summarize()
        values.append(round(float(compare.stats[0]), 6))
    return tuple(values)


for number in (1, 0, -5):
    print(f"id {number}: AP of (pycocotools, faster-coco-eval) {first_statistics(number)}")
limits = first_statistics(1, [1, 10, 300])
print(f"id 1, maxDets [1, 10, 300]: {limits}")
assert first_statistics(1) == (1.0, 1.0)
assert first_statistics(0) == (0.0, 0.0)
assert first_statistics(-5) == (1.0, 0.0)
assert limits == (-1.0, 1.0)
print("as described")
PY
