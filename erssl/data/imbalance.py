"""Long-tailed training images: some of each class, by an exponential law of the class number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from erssl.data.datasets import Datasets, labels_of
from erssl.data.parts import part_of
from erssl.errors import DataError


def long_tailed_counts(available: Sequence[int], factor: float) -> list[int]:
    r"""Images that are kept of each class, :math:`\lfloor n_c \, f^{-c / (C - 1)} \rfloor`.

    Source: Cui et al. (2019, arXiv 1901.05555), section 5.1: the number of images of class c, from
    0 on, falls exponentially; f is how often the largest class of equal ones is as large as the
    smallest.

    Args:
        available: Images n_c of each of the C classes.
        factor: Imbalance factor f, of at least 1.

    Returns:
        At least one image of each class that has one.

    Examples:
        >>> long_tailed_counts([5000] * 10, 100)
        [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    last = max(1, len(available) - 1)
    shares = (factor ** -(c / last) for c in range(len(available)))
    return [min(n, max(1, int(n * share))) for n, share in zip(available, shares, strict=True)]


def long_tailed(datasets: Datasets, factor: float, seed: int) -> Datasets:
    """Keep some of each class's training images to train on; accuracy is measured with all of them.

    Args:
        datasets: Labelled images.
        factor: See :func:`long_tailed_counts`; 1 keeps all.
        seed: Of the choice.

    Returns:
        The same with a long-tailed ``train``, and all images as ``labelled_train``.

    Raises:
        DataError: If the training images have no labels.
    """
    if factor == 1:
        return datasets
    if not datasets.labelled or datasets.labelled_train is not None:
        raise DataError(
            f"data.imbalance={factor:g} keeps some of each class and the training images have no "
            "labels; leave it out, or name labelled images."
        )
    labels = labels_of(datasets.train)
    counts = long_tailed_counts(
        np.bincount(labels, minlength=datasets.num_classes).tolist(), factor
    )
    random = np.random.default_rng([seed, datasets.num_classes])
    kept = [
        random.permutation(np.flatnonzero(labels == c))[:count] for c, count in enumerate(counts)
    ]
    chosen = np.sort(np.concatenate(kept))
    return replace(datasets, train=part_of(datasets.train, chosen), labelled_train=datasets.train)
