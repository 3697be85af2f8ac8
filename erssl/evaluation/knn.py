"""Weighted nearest neighbours on frozen features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from erssl.errors import ConfigError, DataError
from erssl.evaluation.features import Features

# Held at a time: similarities of 1,024 queries to 16,384 training images, 64 MiB, in memory that
# is used again. The quickest of the sizes tried on a CPU, as are 8 folds; fresh memory for each
# block takes 12 % longer, no folds another 11 %.
_QUERIES, _BLOCK, _FOLDS = 1024, 16384, 8


def knn_scores(
    train: Features, val: Features, num_classes: int, k: int = 200, temperature: float = 0.1
) -> Tensor:
    """Votes of weighted kNN with cosine similarity (Wu et al. 2018).

    Each of the k nearest training images votes exp(similarity / temperature) for its class. The
    votes of an image are given relative to that of its nearest neighbour, which changes no order
    and cannot overflow at any temperature. The most voted class is that of lightly's
    ``knn_predict``.

    It computes in float32 on the device of ``train.features``. Beside the result only one chunk of
    similarities and one of normalised features are held, whatever the number of images and
    classes.

    Args:
        train: Features that vote (N, d), of any floating type; ℓ2-normalised inside.
        val: Features that are classified (N_val, d).
        num_classes: Number of classes C.
        k: Neighbours; 200 in lightly's benchmarks (Wu et al. 2018). No more than there are
            training images are asked.
        temperature: Of the votes; 0.1 (DINO: 0.07).

    Returns:
        Votes (N_val, C), float32, not normalised; a row of NaN where a feature was not finite.

    Raises:
        ConfigError: If ``k`` or ``temperature`` is out of range.
        DataError: If features and labels do not fit together.
    """
    device = train.features.device
    scores = torch.empty(len(val.features), num_classes, device=device)
    start = 0
    for votes in _votes(train, val, num_classes, k, temperature):
        scores[start : start + len(votes)] = votes
        start += len(votes)
    return scores


def knn_accuracy(
    train: Features, val: Features, num_classes: int, k: int = 200, temperature: float = 0.1
) -> float:
    """Top-1 accuracy of weighted kNN with cosine similarity.

    The arguments are those of :func:`knn_scores`. An image whose votes are NaN counts as wrong, so
    that a diverged backbone reads 0 and not the share of a class.

    Returns:
        Share of ``val`` that is classified right, in [0, 1].

    Raises:
        ConfigError: If ``k`` or ``temperature`` is out of range.
        DataError: If features and labels do not fit together.
    """
    correct, start = 0, 0
    for votes in _votes(train, val, num_classes, k, temperature):
        labels = val.labels[start : start + len(votes)].to(votes.device)
        right = (votes.argmax(dim=1) == labels) & ~votes[:, 0].isnan()
        correct += int(right.sum())
        start += len(votes)
    return correct / len(val.labels)


@torch.no_grad()
def _votes(
    train: Features, val: Features, num_classes: int, k: int, temperature: float
) -> Iterator[Tensor]:
    """Votes (B, C) of one chunk of queries after another."""
    _check(train, val, num_classes, k, temperature)
    bank = train.features
    labels = train.labels.to(bank.device)
    k = min(k, len(bank))
    size = min(max(_BLOCK, 64 * k), len(bank))
    rows = bank.new_empty(size * bank.shape[1], dtype=torch.float32)
    products = bank.new_empty(min(_QUERIES, len(val.features)) * size, dtype=torch.float32)
    for chunk in val.features.split(_QUERIES):
        queries = F.normalize(chunk.to(bank.device).float(), dim=1)
        similarities = queries.new_empty(len(queries), 0)
        neighbours = labels.new_empty(len(queries), 0)
        for start in range(0, len(bank), size):
            near, where = _nearest(queries, bank[start : start + size], k, rows, products)
            similarities = torch.cat([similarities, near], dim=1)
            neighbours = torch.cat([neighbours, where + start], dim=1)
            similarities, kept = similarities.topk(min(k, similarities.shape[1]), sorted=False)
            neighbours = neighbours.gather(1, kept)
        nearest = similarities.amax(dim=1, keepdim=True)
        weights = ((similarities - nearest) / temperature).exp()
        votes = weights.new_zeros(len(queries), num_classes)
        votes.scatter_add_(1, labels[neighbours], weights)
        # Classes without neighbours would keep a clean 0 beside the others' NaN.
        yield votes.masked_fill_(nearest.isnan(), torch.nan)


def _nearest(
    queries: Tensor, block: Tensor, k: int, rows: Tensor, products: Tensor
) -> tuple[Tensor, Tensor]:
    """Similarities and places (B, k or fewer) of the nearest training images of one block.

    ``rows`` and ``products`` are memory for the normalised block and its similarities.
    """
    unit = rows[: block.numel()].view(block.shape)
    block = block.float()
    torch.div(block, block.norm(dim=1, keepdim=True).clamp_min(1e-12), out=unit)
    held = products[: len(queries) * len(block)].view(len(queries), len(block))
    return _top(torch.mm(queries, unit.T, out=held), min(k, len(block)))


def _top(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and where they are, in no order.

    A row folded over itself has its k largest values in the k columns of the largest maxima, so
    that top-k, which is slow beside a maximum, needs to look at few.
    """
    if values.shape[1] % _FOLDS or values.shape[1] < 2 * _FOLDS * k:
        return values.topk(k, dim=1, sorted=False)
    folded = values.unflatten(1, (_FOLDS, -1))
    columns = folded.amax(dim=1).topk(k, dim=1, sorted=False).indices
    steps = torch.arange(0, values.shape[1], folded.shape[2], device=values.device)
    candidates = (columns[:, None, :] + steps[:, None]).flatten(start_dim=1)
    near, kept = values.gather(1, candidates).topk(k, dim=1, sorted=False)
    return near, candidates.gather(1, kept)


def _check(train: Features, val: Features, num_classes: int, k: int, temperature: float) -> None:
    if k < 1 or not temperature > 0:
        raise ConfigError(
            f"kNN was given k={k} and temperature={temperature}; give k of at least 1 and a "
            "temperature above 0."
        )
    for name, split in (("training", train), ("validation", val)):
        n = len(split.labels)
        if split.features.ndim != 2 or len(split.features) != n or n == 0:
            raise DataError(
                f"kNN was given {name} features {tuple(split.features.shape)} and {n} labels; "
                "give features (N, d) and N labels, N of at least 1."
            )
    if train.features.shape[1] != val.features.shape[1]:
        raise DataError(
            f"kNN was given training features of {train.features.shape[1]} dimensions and "
            f"validation features of {val.features.shape[1]}; give those of one backbone."
        )
    low, high = int(train.labels.min()), int(train.labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"kNN was given training labels from {low} to {high} and num_classes={num_classes}; "
            "give labels from 0 to num_classes - 1."
        )
