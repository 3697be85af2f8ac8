"""Small image folders, made on the spot."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .data_images import noise


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make ``name/<class>/<i>.png`` for the classes, ``count`` each."""

    def make(
        name: str = "train", classes: tuple[str, ...] = ("cat", "dog"), count: int = 3
    ) -> Path:
        for c, label in enumerate(classes):
            folder = tmp_path / name / label
            folder.mkdir(parents=True)
            for i in range(count):
                noise(seed=100 * c + i).save(folder / f"{i}.png")
        return tmp_path / name

    return make
