"""Files that are sound entry by entry and wrong as a whole."""

import re

import pytest

from erssl.downstream.detection.coco import coco_layout, read_coco
from erssl.errors import DataError


def read(root, split="train", **more):
    return read_coco(coco_layout(root)[split == "val"], split, **more)


def each(what):
    """Change every annotation that is no crowd."""

    def do(content):
        for annotation in content["annotations"]:
            if not annotation["iscrowd"]:
                annotation.update(what(annotation["bbox"]))

    return do


def moved(content):
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x + 40, y + 40, w, h]


def test_a_sound_file_gives_no_remark(coco):
    assert read(coco).remarks == read(coco, "val").remarks == ()


REFUSED = {
    "corners": (each(lambda b: {"bbox": [b[0], b[1], b[0] + b[2], b[1] + b[3]]}), "like corners"),
    "relative boxes": (
        each(lambda b: {"bbox": [b[0] / 64, b[1] / 64, b[2] / 64, b[3] / 64]}),
        "smaller than a pixel; they look relative",
    ),
    "relative polygons": (
        each(lambda b: {"segmentation": [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]}),
        "polygons .* look relative",
    ),
    "centres": (
        each(lambda b: {"bbox": [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]]}),
        "centre x, centre y",
    ),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("what", REFUSED)
def test_another_convention_is_refused_with_its_name(change, what, split):
    damage, cause = REFUSED[what]
    with pytest.raises(DataError, match=cause) as caught:
        read(change(split, damage), split)
    assert f"instances_{split}2017.json" in str(caught.value)


def test_corners_without_masks_are_told_by_their_areas(change):
    """In the upper left of a large image they do not leave it."""

    def corners(content):
        for image in content["images"]:
            image.update(width=1000, height=1000)
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation.update(bbox=[x, y, x + w, y + h], area=w * h)

    with pytest.raises(DataError, match="have the area of such a box"):
        read(change("train", corners), masks=False)


REMARKED = {
    "boxes beyond the image": (moved, "boxes of .* leave their image"),
    "masks elsewhere": (
        each(lambda b: {"segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]}),
        "do not lie in their boxes",
    ),
    "relative areas": (each(lambda b: {"area": 0.01}), "areas of .* contradict .* at most 1"),
    "areas of a larger copy": (each(lambda b: {"area": 9 * b[2] * b[3]}), "above their boxes'"),
}


@pytest.mark.parametrize("what", REMARKED)
def test_what_may_be_meant_is_remarked_on(change, what):
    damage, sentence = REMARKED[what]
    data = read(change("train", damage))
    assert any(re.search(sentence, remark) for remark in data.remarks)
    assert set(data.remarks) <= set(data.notes)


def listed_twice(content):
    content["images"].append({**content["images"][0], "id": 99})


def test_an_image_that_is_listed_twice(change):
    assert "listed more than once (001.png)" in " ".join(
        read(change("train", listed_twice)).remarks
    )
    with pytest.raises(DataError, match=r"listed more than once \(007\.png\)"):
        read(change("val", listed_twice), "val")


@pytest.mark.parametrize("above", ["none", None])
def test_a_root_category_that_nothing_uses(change, above):
    def root(content):
        for category in content["categories"]:
            category["supercategory"] = "things"
        extra = {"id": 0, "name": "things"}
        content["categories"].insert(0, extra | ({"supercategory": above} if above else {}))

    (remark,) = read(change("train", root)).remarks
    assert "1 of the 3 categories" in remark and "(things); it looks like the root" in remark


def test_masks_without_pixels_are_not_trained_on(change):
    blank = {"size": [48, 64], "counts": [48 * 64]}
    root = change("train", lambda content: content["annotations"][0].update(segmentation=blank))
    data = read(root)
    assert data.counts["blank_masks"] == 1 and len(data.images[0].trainable) == 1
    assert any("1 masks" in note and "left out of training" in note for note in data.notes)


def test_bad_polygons_are_counted(change):
    def add(content):
        content["annotations"][0]["segmentation"].append([1, 2, 3, 4])

    data = read(change("train", add))
    assert data.counts["polygons_left_out"] == 1
    assert any("1 polygons" in note for note in data.notes)


def test_whole_numbers_written_as_floats_are_whole(change):
    def floats(content):
        for key in ("images", "annotations", "categories"):
            for entry in content[key]:
                for name in ("id", "image_id", "category_id", "width", "height"):
                    if name in entry:
                        entry[name] = float(entry[name])

    data = read(change("train", floats))
    assert data.category_ids == (3, 7) and len(data.training_images) == 6


def test_ids_of_another_type_are_named(change):
    root = change("train", lambda content: [i.update(id=str(i["id"])) for i in content["images"]])
    with pytest.raises(DataError, match="no whole number as id, but '1'; write whole numbers"):
        read(root)
