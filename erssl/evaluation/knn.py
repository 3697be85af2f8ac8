"""Weighted nearest neighbours on frozen features."""

from __future__ import annotations

import torch.nn.functional as F
from lightly.utils.benchmarking import knn_predict

from erssl.evaluation.features import Features

_SIMILARITIES = 2**24  # held at a time; bounds the memory whatever the number of pictures


def knn_accuracy(
    train: Features, val: Features, num_classes: int, k: int = 200, temperature: float = 0.1
) -> float:
    """Top-1 accuracy of weighted kNN with cosine similarity, by lightly's ``knn_predict``.

    Args:
        train: Features that vote; ℓ2-normalised inside.
        val: Features that are classified.
        num_classes: Number of classes.
        k: Neighbours; 200 in lightly's benchmarks (Wu et al. 2018). No more than there are
            training pictures are asked.
        temperature: Of the votes exp(similarity / temperature); 0.1 (DINO: 0.07).

    Returns:
        Share of ``val`` that is classified right, in [0, 1].
    """
    bank = F.normalize(train.features, dim=1).T.contiguous()
    queries = F.normalize(val.features, dim=1)
    k = min(k, bank.shape[1])
    correct = 0
    size = max(1, _SIMILARITIES // bank.shape[1])
    for chunk, labels in zip(queries.split(size), val.labels.split(size), strict=True):
        ranked = knn_predict(chunk, bank, train.labels, num_classes, k, temperature)
        correct += int((ranked[:, 0] == labels).sum())
    return correct / len(queries)
