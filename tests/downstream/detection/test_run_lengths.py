"""Run-length codes against pycocotools, and each way in which one can be wrong."""

import numpy as np
import pytest
from pycocotools import mask as codes

from erssl.downstream.detection.masks import draw_mask, read_mask
from erssl.downstream.detection.run_lengths import area, box_of, compress, decode, read_runs

HEIGHT, WIDTH = 48, 64


def random_masks(count=200):
    chance = np.random.default_rng(0)
    for number in range(count):
        height, width = (int(side) for side in chance.integers(1, 40, 2))
        mask = (chance.random((height, width)) < chance.random()).astype(np.uint8)
        if number % 3 == 0:  # one piece, or nothing, or all
            mask[:] = number % 2
            mask[chance.integers(height) :, chance.integers(width) :] = 1
        yield mask


def test_codes_are_read_and_written_as_pycocotools_does():
    for mask in random_masks():
        code = codes.encode(np.asfortranarray(mask))
        runs = read_runs(code, *mask.shape)
        assert np.array_equal(decode(runs, *mask.shape), mask)
        assert compress(runs) == code["counts"].decode("ascii")
        assert area(runs) == codes.area(code)
        assert (box_of(runs, mask.shape[0]) or (0, 0, 0, 0)) == tuple(codes.toBbox(code))


def test_lists_and_text_give_one_code():
    for mask in random_masks(30):
        code = codes.encode(np.asfortranarray(mask))
        plain = {"size": list(mask.shape), "counts": read_runs(code, *mask.shape).tolist()}
        text = {"size": list(mask.shape), "counts": code["counts"].decode("ascii")}
        assert read_mask(plain, *mask.shape) == read_mask(text, *mask.shape)
        assert read_mask(text, *mask.shape).segmentation == text


@pytest.mark.parametrize(
    ("counts", "joined"),
    [([1, 2, 0, 0, 3], [1, 2, 3]), ([0, 0, 6], [6]), ([2, 0, 4], [6]), ([0, 3, 3, 0], [0, 3, 3])],
)
def test_runs_without_pixels_are_joined(counts, joined):
    """pycocotools takes two of them at one place for the end of both masks."""
    runs = read_runs({"size": [2, 3], "counts": counts}, 2, 3)
    assert runs.tolist() == joined
    code = codes.frPyObjects({"size": [2, 3], "counts": counts}, 2, 3)
    assert np.array_equal(decode(runs, 2, 3), codes.decode(code))


def code(counts, size=(HEIGHT, WIDTH)):
    return {"size": list(size), "counts": counts}


PIXELS = HEIGHT * WIDTH
WRONG = {
    "a smaller copy": (code([6], (2, 3)), "of another size than its image"),
    "sides swapped": (code([PIXELS], (WIDTH, HEIGHT)), "height and width swapped"),
    "no size": ({"counts": [PIXELS]}, "without a size"),
    "a size of text": (code([PIXELS], ("48", "64")), "without a size"),
    "too short": (code([5, 6]), "does not fit its size"),
    "too long": (code([PIXELS, 1]), "does not fit its size"),
    "a length beyond the image": (code([10**30]), "below 0 or above"),
    "a length below 0": (code([PIXELS + 1, -1]), "below 0 or above"),
    "a length of text": (code(["5"]), "neither text nor a list"),
    "no counts": (code(None), "neither text nor a list"),
    "bytes as text": (code("b'PPPQ1'"), r"text form of Python's bytes"),
    "bytes as text, other quotes": (code('b"PPPQ1"'), r"text form of Python's bytes"),
    "nothing": (code(""), "empty"),
    "other characters": (code("PPP!"), "characters that no compressed code has"),
    "characters beyond ASCII": (code("é€"), "characters that no compressed code has"),
    "half of a character": (code("\ud800"), "characters that no compressed code has"),
    "cut short": (code("PZ"), "cut short"),
    "a number without end": (code("o" * 30 + "0"), "numbers that no length has"),
    "differences below 0": (code("1" + "O" * 5), "below 0 or above"),
    "compressed and too short": (code("11"), "does not fit its size"),
    "more text than pixels": (code("0" * 8 * PIXELS), "longer than any code"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_code_that_is_none_is_refused(what):
    wrong, reason = WRONG[what]
    with pytest.raises(ValueError, match=rf"have a run-length code .*{reason}"):
        read_mask(wrong, HEIGHT, WIDTH)


def test_an_image_of_more_pixels_than_a_code_counts_takes_no_memory():
    side = 2**20
    with pytest.raises(ValueError, match="more pixels than a code can have"):
        read_runs(code([side * side], (side, side)), side, side)


SQUARE = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]


def test_a_bad_polygon_among_good_ones_is_left_out():
    mask = read_mask([SQUARE, [1.0, 1.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]], 48, 64)
    assert (mask.segmentation, mask.left_out) == ([SQUARE], 2)


@pytest.mark.parametrize(
    ("polygons", "reason"),
    [
        ([[1.0, 1.0, 2.0, 2.0]], "three points"),
        ([SQUARE, [1.0, float("nan"), 2.0, 2.0, 3.0, 1.0]], "three points"),
        (SQUARE, "no flat list"),
        ([[[1.0, 1.0], [2.0, 2.0], [3.0, 1.0]]], "no flat list"),
        ([[0.0, 0.0, 1e9, 0.0, 1e9, 1e9]], "farther from its image"),
        ([], "have no mask"),
        (None, "have no mask"),
    ],
)
def test_polygons_that_are_no_mask_are_refused(polygons, reason):
    with pytest.raises(ValueError, match=reason):
        read_mask(polygons, 48, 64)


def test_a_mask_without_a_pixel_is_marked():
    assert read_mask(code([PIXELS]), HEIGHT, WIDTH).blank
    assert not read_mask(code([0, PIXELS]), HEIGHT, WIDTH).blank


def test_polygons_and_their_code_draw_one_mask():
    encoded = codes.frPyObjects([SQUARE], HEIGHT, WIDTH)[0]
    as_code = read_mask(encoded, HEIGHT, WIDTH).segmentation
    assert np.array_equal(draw_mask(as_code, 48, 64), draw_mask([SQUARE], 48, 64))
    assert draw_mask([SQUARE], 48, 64).sum() == 400
