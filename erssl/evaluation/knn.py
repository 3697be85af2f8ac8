"""Weighted nearest neighbours on frozen features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from erssl.errors import ConfigError, DataError
from erssl.evaluation.rows import AnyFeatures, Rows, StoredRows

# Held at a time: similarities of 1,024 queries to 16,384 training images, 64 MiB, in memory that
# is used again. The quickest of the sizes tried on a CPU, as are 8 folds; fresh memory for each
# block takes 12 % longer, no folds another 11 %.
_QUERIES, _BLOCK, _FOLDS = 1024, 16384, 8
# Similarities that float32 cannot tell apart: what an order of summation leaves of two of unit
# rows is about 1e-7, and no more than 6e-7 was seen up to 4,096 dimensions.
_TIED = 2.0**-20
_SPARE = 16  # neighbours that are looked at beyond the k-th, whose equals are seldom more
_WIDE = 2**22  # numbers that are held at a time where neighbours are looked at in float64


def knn_scores(
    train: AnyFeatures, val: AnyFeatures, num_classes: int, k: int = 200, temperature: float = 0.1
) -> Tensor:
    """Votes of weighted kNN with cosine similarity (Wu et al. 2018).

    Each of the k nearest training images votes exp(similarity / temperature) for its class. The
    votes of an image are given relative to that of its nearest neighbour, which changes no order
    and cannot overflow at any temperature. The most voted class is that of lightly's
    ``knn_predict``.

    Where training images are equally near (as copies are) and not all of them are among the k
    nearest, they share the votes that are left, so that no order of images counts; lightly takes
    any of them. Of classes with equal votes the one of the lower number is predicted. Features of
    any floating type are compared in float32, and in float64 where that does not tell which are the
    k nearest (more than 16 within 2⁻²⁰ of a cosine count as equal); votes are added in float64. It
    computes on the device of ``train.features``. Beside the result only one chunk of
    similarities and one of normalised features are held, whatever the number of images and
    classes; features that lie in files are read a block at a time.

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
    train: AnyFeatures, val: AnyFeatures, num_classes: int, k: int = 200, temperature: float = 0.1
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


def cut_sentence(k: int, images: int) -> str:
    """Say that fewer neighbours vote than were asked for.

    Args:
        k: Neighbours that were asked for.
        images: Training images, all of which vote.
    """
    return f"kNN: k={k} is cut to k={images}, the number of training images."


@torch.no_grad()
def _votes(
    train: AnyFeatures, val: AnyFeatures, num_classes: int, k: int, temperature: float
) -> Iterator[Tensor]:
    """Votes (B, C) of one chunk of queries after another."""
    _check(train, val, num_classes, k, temperature)
    bank = _Bank(train, num_classes, min(k, len(train.features)), len(val.features))
    for chunk in val.features.split(_QUERIES):
        yield bank.votes(F.normalize(chunk.to(bank.device).float(), dim=1), temperature)


class _Bank:
    """The training images, a block at a time, and the memory for a block and its similarities."""

    def __init__(self, train: AnyFeatures, num_classes: int, k: int, queries: int) -> None:
        self.device = train.features.device
        self._features, self._labels = train.features, train.labels.to(self.device)
        self._num_classes, self._k = num_classes, k
        self._size = min(max(_BLOCK, 64 * k), len(self._features))
        width = self._features.shape[1]
        held, single = min(_QUERIES, queries) * self._size, torch.float32
        self._rows = torch.empty(self._size * width, dtype=single, device=self.device)
        self._products = torch.empty(held, dtype=single, device=self.device)

    def votes(self, queries: Tensor, temperature: float) -> Tensor:
        """Votes (B, C) for normalised queries (B, d)."""
        total, k = len(self._features), self._k
        similarities, numbers = self._nearest(queries, min(k + _SPARE, total))
        similarities, order = similarities.sort(dim=1, descending=True)
        numbers = numbers.gather(1, order)
        nearest, last = similarities[:, :1], similarities[:, k - 1 : k]
        votes = self._empty(queries)
        weights = _weights(similarities[:, :k], nearest, temperature)
        votes.scatter_add_(1, self._labels[numbers[:, :k]], weights.to(votes.dtype))
        if similarities.shape[1] > k:
            close = similarities >= last - _TIED
            held = similarities.shape[1] * self._features.shape[1]
            for rows in close[:, k].nonzero()[:, 0].split(max(1, _WIDE // held)):
                few = rows[~close[rows, -1]] if similarities.shape[1] < total else rows
                votes[few] = self._settled(queries[few], numbers[few], temperature)
                many = rows[close[rows, -1]] if similarities.shape[1] < total else rows[:0]
                if len(many):
                    votes[many] = self._shared(
                        queries[many], last[many], nearest[many], temperature
                    )
        # Classes without neighbours would keep a clean 0 beside the others' NaN.
        return votes.masked_fill_(nearest.isnan(), torch.nan).float()

    def _settled(self, queries: Tensor, numbers: Tensor, temperature: float) -> Tensor:
        """Votes (B, C) where float64 tells which of some near ones (B, n) are the k nearest."""
        wide = self._empty(queries).dtype
        units = F.normalize(self._features[numbers].to(wide), dim=2)
        similarities = torch.einsum("bnd,bd->bn", units, queries.to(wide))
        ordered = similarities.sort(dim=1, descending=True).values
        nearest, last = ordered[:, :1], ordered[:, self._k - 1 : self._k]
        nearer, tied = _nearer_and_tied(similarities, last, torch.finfo(wide).eps * 2**6)
        share = (self._k - nearer.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)
        weights = _weights(similarities, nearest, temperature) * (nearer + tied * share)
        return self._empty(queries).scatter_add_(1, self._labels[numbers], weights)

    def _empty(self, queries: Tensor) -> Tensor:
        """No votes yet (B, C); in float64, so that the order of additions is not seen."""
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        return queries.new_zeros(len(queries), self._num_classes, dtype=wide)

    def _nearest(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Similarities and numbers (B, k) of the nearest training images, in no order."""
        near = queries.new_empty(len(queries), 0)
        numbers = self._labels.new_empty(len(queries), 0)
        for start, products in self._blocks(queries):
            values, where = _top(products, min(k, products.shape[1]))
            near = torch.cat([near, values], dim=1)
            numbers = torch.cat([numbers, where + start], dim=1)
            near, kept = near.topk(min(k, near.shape[1]), sorted=False)
            numbers = numbers.gather(1, kept)
        return near, numbers

    def _shared(self, queries: Tensor, last: Tensor, nearest: Tensor, temperature: float) -> Tensor:
        """Votes (B, C) where images as near as the k-th share what nearer ones leave of k votes."""
        votes, shared = self._empty(queries), self._empty(queries)
        left, count = self._k * torch.ones_like(last), torch.zeros_like(last)
        for start, similarities in self._blocks(queries):
            labels = self._labels[start : start + similarities.shape[1]]
            nearer, tied = _nearer_and_tied(similarities, last, _TIED)
            weights = _weights(similarities, nearest, temperature)
            votes.index_add_(1, labels, (weights * nearer).to(votes.dtype))
            shared.index_add_(1, labels, (weights * tied).to(votes.dtype))
            left -= nearer.sum(dim=1, keepdim=True)
            count += tied.sum(dim=1, keepdim=True)
        return votes + shared * (left / count)

    def _blocks(self, queries: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The first number of each block of training images, and its similarities (B, n)."""
        for start in range(0, len(self._features), self._size):
            unit = _unit(self._features, start, self._size, self._rows)
            held = self._products[: len(queries) * len(unit)].view(len(queries), len(unit))
            yield start, torch.mm(queries, unit.T, out=held)


def _unit(rows: Rows, start: int, size: int, memory: Tensor) -> Tensor:
    """At most ``size`` rows (n, d) from ``start`` on, of unit length, in memory that is given."""
    stop = min(start + size, len(rows))
    unit = memory[: (stop - start) * rows.shape[1]].view(stop - start, -1)
    block = rows.read(start, stop, unit) if isinstance(rows, StoredRows) else rows[start:stop]
    block = block.float()
    torch.div(block, block.norm(dim=1, keepdim=True).clamp_min(1e-12), out=unit)
    return unit


def _weights(similarities: Tensor, nearest: Tensor, temperature: float) -> Tensor:
    """Votes (B, n) relative to that of the nearest (B, 1)."""
    return ((similarities - nearest) / temperature).exp()


def _nearer_and_tied(similarities: Tensor, last: Tensor, close: float) -> tuple[Tensor, Tensor]:
    """Which similarities (B, n) are above the k-th (B, 1), and which are as good as equal to it."""
    nearer = similarities > last + close
    return nearer, (similarities >= last - close) & ~nearer


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


def _check(
    train: AnyFeatures, val: AnyFeatures, num_classes: int, k: int, temperature: float
) -> None:
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
