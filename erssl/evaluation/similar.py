"""Which images are alike: nearest neighbours, near-duplicates and a map, from their features."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from erssl.errors import ConfigError

MapKind = Literal["pca", "tsne", "umap"]
MAP_KINDS: tuple[MapKind, ...] = get_args(MapKind)
_CHUNK = 2**24  # similarities that are held at once
_FEWEST = 4  # images of which t-SNE and UMAP make more than PCA does
_PERPLEXITY = 30.0  # scikit-learn's default, for images enough


class Neighbours(NamedTuple):
    """The nearest other images of each, the nearest first.

    Attributes:
        similarity: Cosines (N, k), float32.
        numbers: Theirs (N, k), int64.
    """

    similarity: Tensor
    numbers: Tensor


class Pair(NamedTuple):
    """Two images that are nearly the same.

    Attributes:
        first: The lower number.
        second: The higher number.
        similarity: Cosine of their features.
    """

    first: int
    second: int
    similarity: float


def nearest_others(features: Tensor, k: int) -> Neighbours:
    """Find the nearest other images of every image, exactly.

    FAISS searches where it is installed (``IndexFlatIP``, which is exact too), else products of
    blocks of rows. No image is a neighbour of its own; where there are fewer than ``k`` others, all
    of them are given.

    Args:
        features: (N, d), finite; rows of zeros are alike to nothing.
        k: Neighbours of each, at least 1.

    Returns:
        Similarities and numbers (N, min(k, N - 1)).
    """
    unit = F.normalize(features.float(), dim=1).cpu()
    count = min(k, len(unit) - 1)
    if count < 1:
        return Neighbours(torch.empty(len(unit), 0), torch.empty(len(unit), 0, dtype=torch.long))
    search = _by_faiss if importlib.util.find_spec("faiss") else _by_products
    similarity, index = search(unit, count + 1)
    own = index == torch.arange(len(unit))[:, None]
    # Of more copies than were asked for the image itself may not be among them: the last goes then.
    own[:, -1] |= ~own.any(dim=1)
    shape = (len(unit), count)
    return Neighbours(similarity[~own].view(shape), index[~own].view(shape))


def _by_products(unit: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` most similar rows of each row, itself among them."""
    nearest = [
        (rows @ unit.T).topk(count, dim=1) for rows in unit.split(max(1, _CHUNK // len(unit)))
    ]
    values, indices = zip(*nearest, strict=True)
    return torch.cat(values), torch.cat(indices)


def _by_faiss(unit: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same by FAISS, which would give -1 for rows that are not there: none are asked for."""
    faiss = importlib.import_module("faiss")
    index = faiss.IndexFlatIP(unit.shape[1])
    rows = np.ascontiguousarray(unit.numpy())
    index.add(rows)
    similarity, places = index.search(rows, count)
    if (places < 0).any():  # by which an index into the features would be that of the last image
        raise RuntimeError("FAISS has found fewer neighbours than there are images.")
    return torch.from_numpy(similarity), torch.from_numpy(places)


def near_duplicates(neighbours: Neighbours, least: float) -> list[Pair]:
    """Pairs of images whose similarity is at least ``least``, the most similar first.

    Of an image that has more near-duplicates than neighbours were asked for, the nearest are given.
    """
    rows, columns = (neighbours.similarity >= least).nonzero(as_tuple=True)
    pairs: dict[tuple[int, int], float] = {}
    others = neighbours.numbers[rows, columns].tolist()
    values = neighbours.similarity[rows, columns].tolist()
    for one, other, value in zip(rows.tolist(), others, values, strict=True):
        pairs[min(one, other), max(one, other)] = value
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Pair(first, second, value) for (first, second), value in ordered]


def check_map(kind: MapKind) -> None:
    """Refuse a map that needs a package which is not installed.

    Raises:
        ConfigError: If UMAP is asked for and is not there.
    """
    if kind == "umap" and importlib.util.find_spec("umap") is None:
        raise ConfigError("map=umap needs UMAP: pip install umap-learn; or set map=pca or tsne.")


def map_of(features: Tensor, kind: MapKind = "pca", seed: int = 0) -> npt.NDArray[np.float64]:
    """Place images in a plane, so that images with similar features lie near each other.

    Args:
        features: (N, d), of which directions alone count: rows are normalised.
        kind: scikit-learn's ``pca`` or ``tsne``, or ``umap``; fewer than four images are placed by
            PCA in any case.
        seed: Of t-SNE and UMAP.

    Returns:
        Coordinates (N, 2); a single image lies at the origin.
    """
    unit = F.normalize(features.double(), dim=1).cpu().numpy()
    if len(unit) == 1:
        return np.zeros((1, 2))
    if kind == "pca" or len(unit) < _FEWEST:
        from sklearn.decomposition import PCA

        parts = min(2, *unit.shape)
        places = PCA(parts, random_state=seed).fit_transform(unit)
        return np.pad(places, ((0, 0), (0, 2 - parts)))
    if kind == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(_PERPLEXITY, (len(unit) - 1) / 3)
        init = "pca" if min(unit.shape) > 1 else "random"
        tsne = TSNE(perplexity=perplexity, init=init, random_state=seed)
        return np.asarray(tsne.fit_transform(unit), dtype=np.float64)
    umap: Any = importlib.import_module("umap")
    neighbours = min(15, len(unit) - 1)  # UMAP's default, for images enough
    places = umap.UMAP(n_neighbors=neighbours, random_state=seed, init="random").fit_transform(unit)
    return np.asarray(places, dtype=np.float64)
