"""Images for the tests, made on the spot."""

from pathlib import Path

import numpy as np
from PIL import Image


def noise(size: tuple[int, int] = (40, 30), seed: int = 0) -> Image.Image:
    """RGB noise of size (W, H); noise, so that a truncated file is missing something."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def truncate(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
