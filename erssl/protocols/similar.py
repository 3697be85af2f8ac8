"""The page of ``erssl embed neighbors=``: which images are alike, near-duplicates, and a map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from erssl.data.bands import as_shown
from erssl.errors import DataError
from erssl.evaluation.similar import (
    MapKind,
    Neighbours,
    Pair,
    map_of,
    near_duplicates,
    nearest_others,
)
from erssl.protocols.splits import Splits
from erssl.run.feature_files import ImageRows
from erssl.run.neighbour_page import Similar, write_page
from erssl.settings.embed import EmbedSettings

_PAIRS = 100  # that are shown
_MAPPED, _WITH_THUMBNAIL = 2000, 120  # images on the map; t-SNE of 2,000 takes half a minute


def check_queries(queries: int | Sequence[str], rows: ImageRows) -> list[int]:
    """Numbers of the images whose neighbours are shown.

    Args:
        queries: How many, spread evenly, or their files: paths as the table has them, or the end
            of one that no other image has.
        rows: The images.

    Raises:
        DataError: If a file is none of the images, or several have that name.
    """
    total = len(rows.files)
    if isinstance(queries, int):
        return _spread(total, queries)
    chosen = []
    for name in queries:
        fits = [i for i, file in enumerate(rows.files) if file == name]
        fits = fits or [i for i, file in enumerate(rows.files) if f"/{file}".endswith(f"/{name}")]
        if len(fits) != 1:
            what = "is none of the images" if not fits else f"is the name of {len(fits)} images"
            raise DataError(f"queries: {name} {what}; give a file as the table names it.")
        chosen.append(fits[0])
    return chosen


def write_similar(
    path: Path,
    settings: EmbedSettings,
    features: Tensor,
    rows: ImageRows,
    splits: Splits,
    queries: Sequence[int],
) -> dict[str, Any]:
    """Write the page.

    Args:
        path: The HTML file.
        settings: Of the command, with ``neighbors``.
        features: (N, d) of all images.
        rows: The images.
        splits: Where they are read from.
        queries: Numbers of the images whose neighbours are shown.

    Returns:
        What it says: ``page``, the number of ``near_duplicates`` and of ``leaks``.
    """
    assert settings.neighbors is not None
    nearest = nearest_others(features, settings.neighbors)
    pairs = near_duplicates(nearest, settings.duplicates)
    leaks = [pair for pair in pairs if rows.splits[pair.first] != rows.splits[pair.second]]
    others = [pair for pair in pairs if rows.splits[pair.first] == rows.splits[pair.second]]
    mapped = _spread(len(rows.files), _MAPPED)
    similar = Similar(
        queries=queries,
        neighbours=[_of(nearest, query) for query in queries],
        pairs=_most_similar(leaks, others),
        pair_count=len(pairs),
        least=settings.duplicates,
        leaks=len(leaks),
        mapped=mapped,
        places=map_of(features[mapped], settings.map, settings.seed),
        with_thumbnail=frozenset(mapped[i] for i in _spread(len(mapped), _WITH_THUMBNAIL)),
        map_name=_MAPS[settings.map],
    )
    places = [(images, i) for _, images in splits for i in range(len(images))]

    def image(number: int) -> Image.Image:
        images, index = places[number]
        return as_shown(images[index][0])

    write_page(path, f"Features of {settings.checkpoint}", rows, similar, image)
    return {"page": str(path), "near_duplicates": len(pairs), "leaks": len(leaks)}


_MAPS: dict[MapKind, str] = {
    "pca": "principal components",
    "tsne": "t-SNE",
    "umap": "UMAP",
}


def _of(nearest: Neighbours, query: int) -> list[tuple[int, float]]:
    pairs = zip(nearest.numbers[query].tolist(), nearest.similarity[query].tolist(), strict=True)
    return [(int(i), float(value)) for i, value in pairs]


def _most_similar(leaks: list[Pair], others: list[Pair]) -> list[Pair]:
    """At most so many pairs as a page shows, those of two splits first."""
    return [*leaks, *others][:_PAIRS]


def _spread(total: int, count: int) -> list[int]:
    """At most ``count`` numbers below ``total``, evenly spread."""
    places = np.linspace(0, total - 1, min(total, count)).round()
    return [int(place) for place in places]
