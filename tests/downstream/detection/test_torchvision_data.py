"""Order of images, sizes, and targets that go with the pixels."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import masks_to_boxes

from erssl.downstream.detection.coco import coco_layout, read_coco
from erssl.downstream.detection.sampling import (
    BatchOrder,
    IterationSampler,
    PreparedRecords,
    record_loader,
)
from erssl.downstream.detection.torchvision_data import (
    PackedImages,
    TrainingImages,
    ValidationImages,
    target_of,
)
from erssl.errors import DataError

from ..conftest import need
from .conftest import COLOURS

WIDE = [i % 3 != 0 for i in range(23)]


@pytest.mark.parametrize("size", [1, 2, 5, 8, 23, 40])
def test_an_epoch_has_every_image_and_full_batches(size):
    order = BatchOrder(WIDE, size, seed=3)
    for epoch in range(3):
        batches = [order.batch(epoch * order.batches + i) for i in range(order.batches)]
        assert {len(batch) for batch in batches} == {size}
        seen = Counter(image for batch in batches for image in batch)
        assert set(seen) == set(range(23))
        assert sum(seen.values()) - 23 < size
        mixed = [b for b in batches if len({WIDE[image] for image in b}) > 1]
        assert len(mixed) <= 2


def test_order_depends_on_seed_and_iteration_alone():
    one, other = BatchOrder(WIDE, 4, 0), BatchOrder(WIDE, 4, 0)
    straight = [one.batch(i) for i in range(20)]
    assert [other.batch(i) for i in reversed(range(20))] == straight[::-1]
    assert [BatchOrder(WIDE, 4, 1).batch(i) for i in range(20)] != straight
    epoch = one.batches
    assert straight[:epoch] != straight[epoch : 2 * epoch]


def test_sampler_begins_anywhere_and_processes_share_a_batch():
    order = BatchOrder(WIDE, 4, 0)
    whole = list(IterationSampler(order, 0, 15))
    assert list(IterationSampler(order, 6, 15)) == whole[6:]
    assert len(IterationSampler(order, 6, 15)) == 15  # Lightning counts from the beginning
    halves = [list(IterationSampler(order, 6, 15, rank, 2)) for rank in (0, 1)]
    for batch, a, b in zip(whole[6:], *halves, strict=True):
        assert sorted(a + b) == sorted(batch)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_of_records_depends_on_seed_iteration_and_image(workers):
    def prepare(record):
        return record, float(np.random.uniform())

    def run(seed, begin=0):
        records = PreparedRecords(range(23), prepare, seed)
        sampler = IterationSampler(BatchOrder(WIDE, 2, 0), begin, 6)
        return list(record_loader(records, sampler, workers))

    before = np.random.get_state()[1].copy()
    once = run(0)
    assert (np.random.get_state()[1] == before).all()
    assert run(0, begin=2) == once[2:]
    values = [value for batch in once for _, value in batch]
    assert len(set(values)) == len(values)
    assert run(1) != once


def images(root, split="train", sizes=(96,), longest=1333, seed=0):
    data = read_coco(coco_layout(root)[split == "val"], split)
    return data, TrainingImages(data.training_images, sizes, longest, seed)


def test_boxes_lie_on_what_was_drawn(coco):
    data, dataset = images(coco)
    mirrored = set()
    for iteration in range(4):
        for number in range(len(dataset)):
            image, target = dataset[iteration, number]
            assert sorted(image.shape[1:]) == [96, 128]
            assert torch.equal(target["labels"], torch.tensor([1, 2]))
            for box, category in zip(target["boxes"], data.category_ids, strict=True):
                x, y = int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)
                colour = torch.tensor(COLOURS[category]) / 255
                assert torch.allclose(image[:, y, x], colour, atol=0.02)
            wide = data.images[number].width
            left = target["boxes"][0, 0] * wide / image.shape[2]
            mirrored.add(bool(abs(left - data.images[number].instances[0].box[0]) > 1))
    assert mirrored == {True, False}


@pytest.mark.parametrize("mirrored", [False, True])
def test_masks_fill_their_boxes_on_real_images(mirrored):
    root = need("coco_mini") / "coco_mini"
    data, _ = images(root)
    for image in data.images[:10]:
        size = (image.width, image.height)
        target = target_of(image, size, mirrored)
        kept = target["masks"].flatten(1).sum(1) > 400  # thin shapes may vanish between pixels
        actual = masks_to_boxes(target["masks"][kept])
        assert (actual - target["boxes"][kept]).abs().max() < 4
        areas = torch.tensor([i.area for i in image.trainable])[kept]
        assert torch.allclose(target["masks"][kept].flatten(1).sum(1).float(), areas, rtol=0.12)


def test_run_length_codes_and_polygons_give_one_mask(coco):
    from pycocotools import mask as codes

    image = images(coco)[0].images[0]
    square = image.trainable[0]
    code = codes.frPyObjects(square.segmentation, image.height, image.width)[0]
    as_code = replace(image, instances=(replace(square, segmentation=code),))
    as_polygon = replace(image, instances=(square,))
    for size in ((128, 96), (64, 48)):
        one, other = (target_of(each, size, True)["masks"] for each in (as_code, as_polygon))
        assert torch.equal(one, other)
    x, y, width, height = (int(v) for v in square.box)  # columns of 48 pixels, from the left
    counts = [48 * x + y, *[height, 48 - height] * (width - 1), height]
    plain = {"size": [48, 64], "counts": [*counts, 48 * 64 - sum(counts)]}
    as_plain = replace(image, instances=(replace(square, segmentation=plain),))
    assert torch.equal(target_of(as_plain, (64, 48), True)["masks"], one)


def test_augmentation_depends_on_seed_iteration_and_image(coco):
    sizes = tuple(range(64, 128, 4))
    _, one = images(coco, sizes=sizes)
    _, same = images(coco, sizes=sizes)
    _, other = images(coco, sizes=sizes, seed=1)
    drawn = [one[i, 2][0] for i in range(12)]
    assert all(torch.equal(same[i, 2][0], drawn[i]) for i in reversed(range(12)))
    assert len({image.shape for image in drawn}) > 4
    assert any(other[i, 2][0].shape != drawn[i].shape for i in range(12))


def test_objects_outside_the_image_and_crowds_are_no_targets(change):
    def outside(content):
        content["annotations"][0]["bbox"] = [70, 5, 10, 10]

    _, dataset = images(change("train", outside))
    _, target = dataset[0, 0]
    assert target["labels"].tolist() == [2]
    assert target["masks"].shape[0] == 1


def test_test_images_have_the_size_of_the_test(coco):
    data = read_coco(coco_layout(coco)[1], "val")
    assert [ValidationImages(data.images, 96, 120)[i][1].shape[1:] for i in (0, 2)] == [
        (90, 120),
        (120, 90),
    ]


def test_size_that_the_file_says_is_checked(change):
    root = change("train", lambda content: content["images"][1].update(width=65))
    with pytest.raises(DataError, match="64 x 48 pixels but the annotations say 65 x 48"):
        _ = images(root)[1][0, 1]


def test_packed_images_are_the_images(coco):
    originals = images(coco)[0].images
    packed = PackedImages(originals)
    assert [packed[i] for i in range(len(packed))] == list(originals)
