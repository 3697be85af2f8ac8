"""Rows that lie in files against the same rows in one tensor."""

import pytest
import torch
from torch import nn

from erssl.evaluation.rows import (
    Features,
    StoredFeatures,
    StoredRows,
    blocks,
    in_memory,
    joined,
    selected,
)

SIZES = (5, 1, 7, 4)


@pytest.fixture
def whole():
    torch.manual_seed(0)
    return torch.randn(sum(SIZES), 3).half()


@pytest.fixture
def rows(whole):
    parts = list(whole.split(SIZES))
    parts[2] = parts[2].float()  # a shard that float16 could not hold
    return StoredRows(parts)


def test_every_slice_is_the_tensors(rows, whole):
    for start in range(len(whole) + 1):
        for stop in range(start, len(whole) + 1):
            assert torch.equal(rows[start:stop], whole[start:stop].float())
    assert torch.equal(rows[-4:], whole[-4:].float())
    assert torch.equal(rows[2:15:3], whole[2:15:3].float())


def test_rows_by_their_numbers_are_the_tensors(rows, whole):
    numbers = torch.tensor([[16, 0, 5], [5, -1, 12]])
    assert torch.equal(rows[numbers], whole[numbers].float())
    mask = torch.arange(17) % 3 == 0
    assert torch.equal(rows[mask], whole[mask].float())
    assert rows[torch.empty(0, dtype=torch.int64)].shape == (0, 3)
    with pytest.raises(IndexError, match="out of the range of the 17 rows"):
        rows[torch.tensor([17])]


def test_blocks_follow_each_other_in_float32(rows, whole):
    parts = list(blocks(rows, 4))
    assert [len(part) for part in parts] == [4, 4, 4, 4, 1]
    assert torch.equal(torch.cat(parts), whole.float())
    assert torch.equal(in_memory(rows), whole.float())


def test_read_fills_memory_that_is_given(rows, whole):
    wide = torch.empty(9, 3, dtype=torch.float64)
    assert rows.read(4, 13, wide) is wide
    assert torch.equal(wide, whole[4:13].double())


def test_a_selection_of_a_selection_is_the_tensors(rows, whole):
    first, second = torch.tensor([3, 14, 9, 0, 3, 16]), torch.tensor([5, 1, 1, 0])
    chosen = rows.select(first)
    assert chosen.shape == (6, 3)
    assert torch.equal(chosen[1:4], whole[first][1:4].float())
    twice = chosen.select(second)
    assert torch.equal(in_memory(twice), whole[first][second].float())
    assert torch.equal(twice[torch.tensor([3, 0])], whole[first][second][[3, 0]].float())


def test_joined_and_selected_parts_are_those_of_tensors(rows, whole):
    labels = torch.arange(17)
    stored, held = StoredFeatures(rows, labels), Features(whole.float(), labels)
    numbers = torch.tensor([8, 2, 2, 16])
    some, expected = selected(stored, numbers), selected(held, numbers)
    assert isinstance(some, StoredFeatures)
    both, wanted = joined([stored, some, stored]), joined([held, expected, held])
    assert isinstance(both.features, StoredRows)
    assert torch.equal(in_memory(both.features), wanted.features)
    assert torch.equal(both.labels, wanted.labels)
    mixed = joined([held, some])
    assert torch.equal(mixed.features, joined([held, expected]).features)


def test_the_type_on_another_device_is_the_stored_one(whole):
    half = StoredRows(whole.split(4)).to("meta")
    assert half.dtype == torch.float16 and half.shape == whole.shape
    assert StoredRows([whole[:3], whole[3:].float()]).to("meta").dtype == torch.float32
    assert isinstance(StoredRows([whole]).to("cpu"), StoredRows)


def test_a_layer_takes_a_block(rows):
    assert nn.Linear(3, 2)(rows[0:4]).shape == (4, 2)
