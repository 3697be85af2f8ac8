"""Reading COCO files: what is in them, and each way in which they can be wrong."""

import shutil
from collections import Counter

import pytest

from erssl.downstream.detection.coco import (
    CocoSource,
    check_images,
    check_same_categories,
    coco_layout,
    read_coco,
)
from erssl.errors import DataError

from ..conftest import need


def read(root, split="train", **more):
    return read_coco(coco_layout(root)[split == "val"], split, **more)


def test_images_instances_and_contiguous_classes(coco):
    data = read(coco)
    assert (data.category_ids, data.class_names) == ((3, 7), ("square", "bar"))
    assert len(data.images) == len(data.training_images) == 6
    image = data.images[0]
    assert (image.width, image.height, image.path.name) == (64, 48, "001.png")
    assert [i.label for i in image.instances] == [0, 1, 0]
    assert [i.label for i in image.trainable] == [0, 1]
    assert data.counts["crowds"] == data.counts["run_length_masks"] == 1
    labels = Counter(i.label for image in data.images for i in image.trainable)
    assert {data.class_names[k]: n for k, n in labels.items()} == {"square": 6, "bar": 6}
    assert any("1 crowd regions" in note for note in data.notes)


def test_explicit_paths(coco):
    source = CocoSource(
        coco / "val2017", coco / "annotations" / "instances_val2017.json", name="mine"
    )
    assert read_coco(source, "val").name == "mine"


def test_coco_mini_as_pycocotools_counts_it():
    from pycocotools.coco import COCO

    root = need("coco_mini") / "coco_mini"
    for split in ("train", "val"):
        data = read(root, split)
        theirs = COCO(str(data.source.annotations))
        assert data.counts["images"] == len(theirs.imgs)
        assert data.counts["instances"] == len(theirs.anns)
        assert data.counts["crowds"] == len(theirs.getAnnIds(iscrowd=True))
        assert data.category_ids == tuple(theirs.getCatIds())
        assert not data.has_codes
        check_images(data, 2)
    check_same_categories(read(root), read(root, "val"))


def first(key, **values):
    return lambda content: content[key][0].update(values)


def without(key, name):
    return lambda content: content[key][0].pop(name)


def twice(key):
    return lambda content: content[key].append(dict(content[key][0]))


BAD = {
    "an image that is not listed": (first("annotations", image_id=99), "name 1 images"),
    "a missing image": (first("images", file_name="no.png"), "1 images .* not in .*no.png"),
    "an unknown category": (first("annotations", category_id=4), "categories that it does not"),
    "images of one id": (twice("images"), "ids of images .* more than once"),
    "annotations of one id": (twice("annotations"), "ids of annotations .* more than once"),
    "categories of one id": (twice("categories"), "ids of categories .* more than once"),
    "no id": (without("annotations", "id"), "no whole number as id"),
    "no size": (without("images", "height"), "no file_name, width and height"),
    "no box": (without("annotations", "bbox"), "no box of four finite numbers"),
    "a box that is no number": (
        first("annotations", bbox=[0, 0, float("nan"), 3]),
        "no box of four finite numbers",
    ),
    "no mask": (without("annotations", "segmentation"), "have no mask"),
    "an empty mask": (first("annotations", segmentation=[]), "have no mask"),
    "two points": (first("annotations", segmentation=[[1, 1, 2, 2]]), "three points"),
    "an odd polygon": (first("annotations", segmentation=[[1, 1, 2, 2, 3, 3, 4]]), "three points"),
    "a short code": (
        first("annotations", segmentation={"size": [48, 64], "counts": [5, 6]}),
        "does not fit its size",
    ),
    "no list of images": (lambda content: content.pop("images"), "no list 'images'"),
    "entries that are no objects": (
        lambda content: content["images"].append(3),
        "entries of 'images'",
    ),
    "no categories": (lambda content: content.update(categories=[], annotations=[]), "no categor"),
    "no images": (lambda content: content.update(images=[], annotations=[]), "lists no images"),
    "no annotations": (lambda content: content.update(annotations=[]), "no object with a box"),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_one_sentence(change, what, split):
    damage, sentence = BAD[what]
    root = change(split, damage)
    with pytest.raises(DataError, match=sentence) as caught:
        read(root, split)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert f"instances_{split}2017.json" in str(caught.value)


def test_boxes_alone_need_no_masks(change):
    root = change("train", lambda content: [a.pop("segmentation") for a in content["annotations"]])
    assert len(read(root, masks=False).images) == 6
    with pytest.raises(DataError, match=r"13 annotations .* and 8 more"):
        read(root)


@pytest.mark.parametrize("box", [[5, 5, 0, 7], [5, 5, 7, 0], [5, 5, -1, 4]])
def test_boxes_without_area_are_not_trained_on(change, box):
    root = change("train", first("annotations", bbox=box, segmentation=[]))
    data = read(root)
    assert data.counts["empty_boxes"] == 1
    assert len(data.images[0].trainable) == 1
    assert any("1 boxes" in note and "left out of training" in note for note in data.notes)


def test_images_without_objects_are_left_out_of_training(change):
    def empty(content):
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 2]

    data = read(change("train", empty))
    assert [i.id for i in data.training_images] == [1, 3, 4, 5, 6]
    assert any("1 images" in note for note in data.notes)


def test_categories_must_agree(change):
    root = change("val", first("categories", name="circle"))
    with pytest.raises(DataError, match=r"lacking there square, more there circle"):
        check_same_categories(read(root), read(root, "val"))


def test_missing_folder_file_and_broken_json(coco):
    file = coco / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(DataError, match="broken JSON"):
        read(coco, "val")
    file.unlink()
    with pytest.raises(DataError, match=r"No such file .* val_annotations="):
        read(coco, "val")
    shutil.rmtree(coco / "val2017")
    with pytest.raises(DataError, match="no folder of images; name it with val_images="):
        read(coco, "val")


def test_damaged_images(coco):
    image = coco / "train2017" / "001.png"
    image.write_bytes(image.read_bytes()[:200])
    (coco / "train2017" / "002.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of the 6 images .*001.png.*002.png: empty file"):
        check_images(read(coco), 1)
