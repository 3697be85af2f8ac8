"""The order of the pictures: all of them, alike in shape, the same at the same iteration."""

from itertools import islice

import numpy as np
import pytest

from erssl.downstream.detection.order import DrawnPictures, PictureOrder, loader

WIDE = [True, False, True, True, False, True, True]


def first(order, count):
    return list(islice(order, count))


def test_a_batch_is_wide_or_tall_and_every_picture_comes():
    batches = first(PictureOrder(WIDE, 2, seed=0), 70)
    assert all(len({WIDE[picture] for _, picture in batch}) == 1 for batch in batches)
    drawn = sorted(number for batch in batches for number, _ in batch)
    assert len(set(drawn)) == 140
    seen = np.bincount([picture for batch in batches for _, picture in batch])
    assert seen.min() >= 19 and seen.max() <= 21  # 20 passes, but for those that wait


def test_goes_on_where_it_was():
    whole = first(PictureOrder(WIDE, 2, seed=3), 30)
    for start in (1, 13, 29):
        order = PictureOrder(WIDE, 2, seed=3)
        order.start = start
        assert first(order, 30 - start) == whole[start:]
    assert first(PictureOrder(WIDE, 2, seed=4), 30) != whole


def test_processes_share_the_pictures():
    parts = [first(PictureOrder([True] * 8, 2, 0, rank, 2), 2) for rank in (0, 1)]
    pictures = [picture for part in parts for batch in part for _, picture in batch]
    assert sorted(pictures) == list(range(8))


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_depends_on_the_seed_and_the_draw(workers):
    def prepare(record):
        return record, float(np.random.uniform())

    def run(seed, start=0):
        order = PictureOrder(WIDE, 2, seed=0)
        order.start = start
        pictures = DrawnPictures(range(7), prepare, seed)
        return first(loader(pictures, order, workers), 6 - start)

    before = np.random.get_state()[1].copy()
    once = run(0)
    assert (np.random.get_state()[1] == before).all()
    assert run(0, start=2) == once[2:]
    values = [value for batch in once for _, value in batch]
    assert len(set(values)) == len(values)
    assert run(1) != once
