"""COCO's run-length codes of masks: read with bounds of our own, and made mask again.

A code lists the lengths of runs of pixels, columns first, background first. In the compressed form
each length is a number of 5-bit groups, lowest first, in the characters 48 to 111; bit 5 says that
a group follows, bit 4 of the last is the sign, and from the fourth number on it is the difference
to the number two before (pycocotools, ``common/maskApi.c``). pycocotools reads a code without
looking whether it fits: one that is longer or shorter than its image is read beyond its end, or
compared without end. Nothing here needs pycocotools, and it is handed only what was read here.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from erssl.downstream.detection.json_values import whole

Runs: TypeAlias = NDArray[np.int64]

_FIRST, _LAST = 48, 111  # characters of the compressed form
_GROUP = 5  # bits in each
_MOST_GROUPS = 7  # 35 bits hold every 32-bit length and its sign
_MOST_PIXELS = 2**32 - 1  # pycocotools counts pixels in 32 bits
_MOST_CHARACTERS = 2**27  # of which no sum leaves 64 bits
_BYTES_AS_TEXT = ("b'", 'b"')


def read_runs(code: Any, height: int, width: int) -> Runs:
    """Read a run-length code of an image and check all of it.

    Args:
        code: ``size`` (height, width) and ``counts``: a list of lengths, or the compressed text.
        height: Of the image, in pixels.
        width: Likewise.

    Returns:
        Lengths (R,), which sum to ``height * width``: of background, mask, background, ... Only
        the first may be 0.

    Raises:
        ValueError: If it is no code of this image, with the reason as the rest of a sentence that
            begins with "annotations have a run-length code".

    Example:
        >>> read_runs({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3).tolist()
        [1, 2, 3]
        >>> read_runs({"size": [2, 3], "counts": "123"}, 2, 3).tolist()
        [1, 2, 3]
    """
    size, counts = code.get("size"), code.get("counts")
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(map(whole, size)):
        raise ValueError("without a size of two whole numbers [height, width]")
    if list(size) != [height, width]:
        swapped = ", with height and width swapped" if list(size) == [width, height] else ""
        raise ValueError(f"of another size than its image{swapped}")
    if height * width > _MOST_PIXELS:
        raise ValueError("of an image with more pixels than a code can have")
    if isinstance(counts, bytes):
        counts = counts.decode("latin1")
    if isinstance(counts, str):
        runs = _compressed(counts, height * width)
    elif isinstance(counts, list) and all(map(whole, counts)):
        if not all(0 <= length <= height * width for length in counts):
            raise ValueError("with lengths below 0 or above its number of pixels")
        runs = np.asarray(counts, np.int64)
    else:
        raise ValueError("whose counts are neither text nor a list of whole numbers")
    if int(runs.sum()) != height * width:
        raise ValueError("that does not fit its size: its lengths do not sum to height times width")
    return _joined(runs)


def compress(runs: Runs) -> str:
    """Write lengths in the compressed form.

    Args:
        runs: Lengths (R,), as :func:`read_runs` gives them.

    Example:
        >>> compress(np.array([6, 1, 40, 4, 5, 83, 61]))
        '61X13mN_2h1'
    """
    numbers = runs.copy()
    numbers[3:] -= runs[1:-2]
    text = bytearray()
    for number in numbers.tolist():
        more = True
        while more:
            group, number = number & 31, number >> _GROUP
            more = number != (-1 if group & 16 else 0)
            text.append(_FIRST + group + 32 * more)
    return text.decode("ascii")


def decode(runs: Runs, height: int, width: int) -> NDArray[np.uint8]:
    """Make a mask (height, width) of zeros and ones from its lengths.

    Example:
        >>> decode(np.array([1, 2, 3]), 2, 3).tolist()
        [[0, 1, 0], [1, 0, 0]]
    """
    values = np.arange(len(runs)) & 1
    mask: NDArray[np.uint8] = np.repeat(values.astype(np.uint8), runs).reshape(width, height).T
    return mask


def box_of(runs: Runs, height: int) -> tuple[int, int, int, int] | None:
    """Box (x, y, width, height) around the pixels of a mask; ``None`` where it has none.

    Args:
        runs: Lengths (R,), as :func:`read_runs` gives them.
        height: Of the image, in pixels.
    """
    ends = np.cumsum(runs)
    starts, ends = ends[: len(runs) // 2 * 2 : 2], ends[1::2] - 1  # pixels of each run of mask
    if not len(starts):
        return None
    left, right = int(starts[0]) // height, int(ends[-1]) // height
    top, bottom = int((starts % height).min()), int((ends % height).max())
    if bool((starts // height != ends // height).any()):  # on into the next column
        top, bottom = 0, height - 1
    return left, top, right - left + 1, bottom - top + 1


def area(runs: Runs) -> int:
    """Number of pixels of a mask."""
    return int(runs[1::2].sum())


def _compressed(text: str, pixels: int) -> Runs:
    """Lengths of a compressed code, each between 0 and the number of pixels."""
    if text.startswith(_BYTES_AS_TEXT):
        raise ValueError(
            "that is the text form of Python's bytes (b'...'), written with str() in place of "
            ".decode('ascii')"
        )
    if not text or len(text) > min(_MOST_CHARACTERS, _MOST_GROUPS * (pixels + 1)):
        raise ValueError("that is empty or longer than any code of its image")
    characters = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    if characters.min() < _FIRST or characters.max() > _LAST:
        raise ValueError("with characters that no compressed code has")
    groups = characters.astype(np.int64) - _FIRST
    last = np.flatnonzero(groups & 32 == 0)  # group of each number
    if not len(last) or last[-1] != len(groups) - 1:
        raise ValueError("that ends within a number; it was cut short")
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if int(lengths.max()) > _MOST_GROUPS:
        raise ValueError("with numbers that no length has")
    place = np.arange(len(groups)) - np.repeat(first, lengths)
    numbers = np.add.reduceat((groups & 31) << (_GROUP * place), first)
    numbers -= np.where(groups[last] & 16, np.int64(1) << (_GROUP * lengths), 0)
    runs: Runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    if int(runs.min()) < 0 or int(runs.max()) > pixels:
        raise ValueError("with lengths below 0 or above its number of pixels")
    return runs


def _joined(runs: Runs) -> Runs:
    """The same mask without runs of length 0 but for the first, which pycocotools stops at."""
    if len(runs) < 2 or bool(runs[1:].all()):
        return runs
    kept: list[int] = [int(runs[0])]
    background = True  # of the last that was kept
    for number, length in enumerate(runs[1:].tolist(), start=1):
        if not length:
            continue
        if (number % 2 == 0) == background:
            kept[-1] += length
        else:
            kept.append(length)
            background = not background
    return np.asarray(kept, np.int64)
