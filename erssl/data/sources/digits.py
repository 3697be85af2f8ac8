"""``data=digits``: scikit-learn's scans of handwritten digits, nothing to download."""

from __future__ import annotations

from dataclasses import field

import numpy as np

from erssl.data.bands import GREY, RGB
from erssl.data.datasets import Datasets, ImagesInMemory, greyed
from erssl.data.options import DataOptions
from erssl.data.registry import register_dataset
from erssl.data.views import ViewOptions


@register_dataset("digits")
class Digits(DataOptions):
    """1,797 scans of 8 × 8 pixels; mean and deviation are of the 1,437 training scans."""

    channel_choices = (GREY, RGB)
    same_everywhere = True
    next_step = "Real images: erssl pretrain data=cifar10 data.download=true"

    image_size: int = 32
    mean: tuple[float, ...] = (0.3054,) * 3
    std: tuple[float, ...] = (0.376,) * 3
    views: ViewOptions = field(default_factory=lambda: ViewOptions(recipe="digits"))

    def load(self) -> Datasets:
        """Give 80 % to train on, every class in the same share."""
        from sklearn.datasets import load_digits  # which no other data set has to wait for
        from sklearn.model_selection import train_test_split

        scans = load_digits()
        grey = np.rint(scans.images * (255 / 16)).astype(np.uint8)  # 17 levels, 0..16
        pixels = np.repeat(grey[..., None], 3, axis=-1)
        targets = scans.target.astype(np.int64)
        # Fixed, whatever the run's seed: two runs must be measured on the same images.
        train, val = train_test_split(
            np.arange(len(targets)), test_size=0.2, stratify=targets, random_state=0
        )
        datasets = Datasets(
            train=ImagesInMemory(pixels[train], targets[train]),
            val=ImagesInMemory(pixels[val], targets[val]),
            num_classes=10,
            class_names=tuple(str(digit) for digit in range(10)),
        )
        return greyed(datasets) if self.channels == GREY else datasets
