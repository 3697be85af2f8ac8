"""A small data set in COCO's standard layout, made of coloured shapes."""

import json

import numpy as np
import pytest
from PIL import Image

CATEGORIES = [{"id": 3, "name": "square"}, {"id": 7, "name": "bar"}]
COLOURS = {3: (220, 40, 40), 7: (40, 60, 220)}


def polygon(box):
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def annotation(number, image, category, box, **more):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        "segmentation": polygon(box),
        "area": box[2] * box[3],
        "iscrowd": 0,
        **more,
    }


def draw(folder, number, size, boxes):
    rng = np.random.default_rng(number)
    pixels = rng.integers(100, 140, (size[1], size[0], 3), dtype=np.uint8)
    for category, (x, y, w, h) in boxes:
        pixels[y : y + h, x : x + w] = COLOURS[category]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{number:03}.png")


def write(root, split, content):
    (root / "annotations").mkdir(exist_ok=True, parents=True)
    file = root / "annotations" / f"instances_{split}2017.json"
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def coco(tmp_path):
    """Six training and three validation images, wide and tall, two classes, one crowd."""
    root = tmp_path / "coco"
    for split, numbers in (("train", range(1, 7)), ("val", range(7, 10))):
        images, annotations = [], []
        for n in numbers:
            size = (64, 48) if n % 3 else (48, 64)
            boxes = [(3, (4 + n, 6, 20, 20)), (7, (8, 30 + n % 4, 30, 8))]
            draw(root / f"{split}2017", n, size, boxes)
            images.append(
                {"id": n, "file_name": f"{n:03}.png", "width": size[0], "height": size[1]}
            )
            annotations += [annotation(10 * n + i, n, *box) for i, box in enumerate(boxes)]
        code = {"size": [48, 64], "counts": [0, 48 * 10, 48 * 54]}
        crowd = {"iscrowd": 1, "segmentation": code}
        annotations.append(annotation(5, numbers[0], 3, (0, 0, 10, 48), **crowd))
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        write(root, split, content)
    return root


@pytest.fixture
def change(coco):
    """Change the annotations of a split, or one entry of them."""

    def do(split, what):
        file = coco / "annotations" / f"instances_{split}2017.json"
        content = json.loads(file.read_text())
        what(content)
        file.write_text(json.dumps(content))
        return coco

    return do
