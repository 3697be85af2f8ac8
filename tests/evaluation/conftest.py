"""What tests of evaluations share."""

import numpy as np
import pytest

from erssl.data.datasets import ImagesInMemory

from .counting import N


@pytest.fixture
def images():
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
    return ImagesInMemory(pixels, draw.integers(0, 10, N))
