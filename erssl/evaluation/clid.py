"""Cluster learnability and intrinsic dimension, the two parts of CLID (arXiv 2206.01251)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CLUSTERS, NEIGHBOURS = 30, 5  # ours: the paper's numbers are not confirmed
_ROWS = 512  # whose distances are held at a time


@torch.no_grad()
def cluster_learnability(
    z: Tensor, clusters: int = CLUSTERS, k: int = NEIGHBOURS, seed: int = 0
) -> float:
    """Share of rows whose k-means cluster their nearest neighbours predict.

    Source: Lu et al. (2022, arXiv 2206.01251), "the performance of a KNN classifier trained to
    predict labels obtained by clustering the representations with K-means". Here each row is
    predicted by a vote of its k nearest other rows (of equal votes the lower number), by cosine,
    and k-means++ starts once; these choices are ours.

    Args:
        z: Embeddings (N, d).
        clusters: Of k-means; at most N / 2.
        k: Neighbours that vote.
        seed: Of the start of k-means.

    Returns:
        A share in [0, 1]; NaN where a row is not finite.
    """
    from sklearn.cluster import KMeans  # which no other reading has to wait for

    if not z.isfinite().all():
        return float("nan")
    rows = F.normalize(z.double().cpu(), dim=1)
    clusters = max(1, min(clusters, len(rows) // 2))
    fitted = KMeans(clusters, n_init=1, random_state=seed).fit(rows.numpy())
    labels = torch.from_numpy(fitted.labels_).long()
    return neighbours_agreement(rows, labels, clusters, k)


def neighbours_agreement(rows: Tensor, labels: Tensor, classes: int, k: int) -> float:
    """Share of unit rows (N, d) whose label (N,) a vote of the k nearest other rows gives."""
    votes = F.one_hot(labels, classes).double()
    right = 0
    for start in range(0, len(rows), _ROWS):
        cosines = rows[start : start + _ROWS] @ rows.T
        cosines.diagonal(start).fill_(-2)  # below every cosine
        nearest = cosines.topk(min(k, len(rows) - 1), dim=1).indices
        predicted = votes[nearest].sum(dim=1).argmax(dim=1)
        right += int((predicted == labels[start : start + _ROWS]).sum())
    return right / len(rows)


@torch.no_grad()
def intrinsic_dimension(z: Tensor) -> float:
    r"""Intrinsic dimension by the two nearest neighbours, :math:`(N - 1) / \sum_i \log(r_2 / r_1)`.

    Source: Facco et al. (2017, arXiv 1803.06992), TwoNN: where the density is constant up to the
    second neighbour, the ratio of the distances is Pareto's with the dimension as its exponent; by
    its likelihood, without bias, where they fit a line. CLID (arXiv 2206.01251) takes an intrinsic
    dimension for expressiveness.

    Args:
        z: Embeddings (N, d). Copies of a row count once; rows are not normalised.

    Returns:
        The dimension; NaN of fewer than three different rows, or where one is not finite.
    """
    if not z.isfinite().all():
        return float("nan")
    rows = torch.unique(z.double().cpu(), dim=0)
    if len(rows) < 3:
        return float("nan")
    logs = 0.0
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        # not by inner products, whose rounding a near neighbour would drown in
        distances = torch.cdist(part, rows, compute_mode="donot_use_mm_for_euclid_dist")
        distances.diagonal(start).fill_(torch.inf)
        first, second = distances.topk(2, dim=1, largest=False).values.unbind(dim=1)
        logs += float((second / first).log().sum())
    return (len(rows) - 1) / logs if logs > 0 else float("nan")
