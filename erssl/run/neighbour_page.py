"""A page of images and those that are like them: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from erssl.escaping import html_text
from erssl.files import write_text
from erssl.run.feature_files import ImageRows
from erssl.run.plots import GREY, PALETTE

_THUMBNAIL, _QUALITY = 112, 80  # pixels of the longer side; of JPEG
_WIDTH, _HEIGHT, _MARGIN = 960, 620, 36  # of the map
_DOT, _ON_MAP = 5, 34  # radius of a point, side of a thumbnail
_LEGEND = 20  # classes that are named

_CAVEAT = (
    "How alike two images must be for a cosine depends on the network; of an untrained, little "
    "trained or collapsed one everything is alike."
)

# The page runs nothing and fetches nothing, whatever stands in a name.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 24px; color: #222; background: #fff; }}
h1 {{ font-size: 22px; }} h2 {{ font-size: 18px; margin-top: 32px; }}
.row {{ display: flex; flex-wrap: wrap; gap: 8px; align-items: flex-start; margin: 10px 0;
  border-bottom: 1px solid #ddd; padding-bottom: 10px; }}
.grid {{ display: flex; flex-wrap: wrap; gap: 12px; }}
.pair {{ display: flex; flex-wrap: wrap; gap: 4px; width: 236px; border: 1px solid #ddd;
  padding: 6px; align-content: flex-start; }} .pair p {{ margin: 0; width: 100%; }}
figure {{ margin: 0; width: 116px; }}
figure.query {{ border-right: 2px solid #999; padding-right: 10px; margin-right: 4px; }}
figure img {{ display: block; width: 112px; height: 112px; object-fit: contain;
  object-position: left bottom; }}
figcaption {{ font-size: 11px; overflow-wrap: anywhere; }}
.other {{ color: {wrong}; }} .leak {{ color: {wrong}; font-weight: bold; }}
svg {{ border: 1px solid #ddd; max-width: 100%; height: auto; }}
</style></head><body>
"""


@dataclass(frozen=True)
class Similar:
    """What a page shows.

    Attributes:
        queries: Numbers of the images whose neighbours are shown.
        neighbours: Of each query, numbers and similarities of its neighbours, the nearest first.
        pairs: Near-duplicates: two numbers and their similarity, the most similar first.
        pair_count: How many there are, of which ``pairs`` may be a part.
        least: Similarity from which two images count as near-duplicates.
        leaks: How many pairs have one image in each split.
        mapped: Numbers of the images on the map.
        places: Their coordinates (M, 2).
        with_thumbnail: Those of them that the map shows as thumbnails.
        map_name: What made the map.
    """

    queries: Sequence[int]
    neighbours: Sequence[Sequence[tuple[int, float]]]
    pairs: Sequence[tuple[int, int, float]]
    pair_count: int
    least: float
    leaks: int
    mapped: Sequence[int]
    places: npt.NDArray[np.float64]
    with_thumbnail: frozenset[int]
    map_name: str


def write_page(
    path: Path, title: str, rows: ImageRows, similar: Similar, image: Callable[[int], Image.Image]
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: The HTML file.
        title: Its heading.
        rows: Names, classes and splits of all images.
        similar: What is shown.
        image: Gives the image of a number; each is asked for once.
    """
    page = _Page(rows, image)
    body = [
        _HEAD.format(title=html_text(title), wrong=PALETTE[1]),
        f"<h1>{html_text(title)}</h1>\n"
        f"<p>{len(rows.files):,} images. Similarity is the cosine of two "
        "images' features.</p>\n",
        *page.map(similar),
        *page.pairs(similar),
        *page.neighbours(similar),
        "</body></html>\n",
    ]
    write_text(path, "".join(body))


class _Page:
    """Parts of a page, with the thumbnails that they share."""

    def __init__(self, rows: ImageRows, image: Callable[[int], Image.Image]) -> None:
        self._rows = rows
        self._image = image
        self._thumbnails: dict[int, str] = {}

    def neighbours(self, similar: Similar) -> list[str]:
        """A row for each query: the image, then its neighbours."""
        parts = [
            "<h2>Nearest neighbours</h2>\n<p>At the left the image, then its neighbours, the "
            "nearest first; one of another class is named in colour.</p>\n"
        ]
        for query, others in zip(similar.queries, similar.neighbours, strict=True):
            figures = [self._figure(query, "", "query")]
            figures += [
                self._figure(other, f"{value:.3f}", self._kind(query, other))
                for other, value in others
            ]
            parts.append(f'<div class="row" id="image{query}">{"".join(figures)}</div>\n')
        return parts

    def pairs(self, similar: Similar) -> list[str]:
        """The near-duplicates, and how many of them leak from one split into the other."""
        said = f"{similar.pair_count:,} pairs of a similarity of at least {similar.least:g}"
        if len(set(self._rows.splits)) > 1:
            said += f", {similar.leaks:,} of them with one image in train and one in val"
        if len(similar.pairs) < similar.pair_count:
            said += (
                f"; the {len(similar.pairs):,} most similar are shown, those of two splits first"
            )
        parts = [f"<h2>Near-duplicates</h2>\n<p>{said}. {_CAVEAT}</p>\n", '<div class="grid">\n']
        for first, second, value in similar.pairs:
            leaks = self._rows.splits[first] != self._rows.splits[second]
            mark = '<p class="leak">train and val</p>' if leaks else ""
            figures = self._figure(first, "") + self._figure(second, f"{value:.4f}")
            parts.append(f'<div class="pair">{figures}{mark}</div>\n')
        return [*parts, "</div>\n"]

    def map(self, similar: Similar) -> list[str]:
        """The map as vector graphics: points in the colour of their class, and thumbnails."""
        names = sorted(set(self._rows.classes))
        colours = dict(zip(names, _colours(len(names)), strict=True))
        low, high = similar.places.min(axis=0), similar.places.max(axis=0)
        span = np.where(high > low, high - low, 1.0)
        share = np.where(high > low, (similar.places - low) / span, 0.5)
        inner = np.array([_WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN])
        marks = []
        for number, (x, y) in zip(similar.mapped, _MARGIN + share * inner, strict=True):
            title = f"<title>{html_text(self._title(number))}</title>"
            colour = colours[self._rows.classes[number]] if names != [""] else GREY
            if number in similar.with_thumbnail:
                half = _ON_MAP / 2
                box = f'x="{x - half:.1f}" y="{y - half:.1f}" width="{_ON_MAP}" height="{_ON_MAP}"'
                marks.append(
                    f'<g>{title}<image {box} href="{self._thumbnail(number)}"/>'
                    f'<rect {box} fill="none" stroke="{colour}" stroke-width="2"/></g>\n'
                )
            else:
                marks.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_DOT}" fill="{colour}" '
                    f'fill-opacity="0.6">{title}</circle>\n'
                )
        legend = ", ".join(
            f'<span style="color:{colours[name]}">{html_text(name)}</span>'
            for name in names[:_LEGEND]
            if name
        )
        more = f", and {len(names) - _LEGEND} more classes" if len(names) > _LEGEND else ""
        shown = f"{len(similar.mapped):,} of {len(self._rows.files):,} images"
        return [
            f"<h2>Map</h2>\n<p>{shown}, placed by {html_text(similar.map_name)}. "
            f"{legend}{more}</p>\n",
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img">\n',
            *marks,
            "</svg>\n",
        ]

    def _kind(self, query: int, other: int) -> str:
        return "other" if self._rows.classes[query] != self._rows.classes[other] else ""

    def _title(self, number: int) -> str:
        rows = self._rows
        about = f"{rows.files[number]} ({rows.splits[number]}"
        return about + (f", {rows.classes[number]})" if rows.classes[number] else ")")

    def _figure(self, number: int, said: str, kind: str = "") -> str:
        file, name = self._rows.files[number], self._rows.classes[number]
        lines = [said, name, file.rpartition("/")[2], self._rows.splits[number]]
        caption = "<br>".join(html_text(line) for line in lines if line)
        style = f' class="{kind}"' if kind else ""
        return (
            f'<figure{style}><img src="{self._thumbnail(number)}" alt="" '
            f'title="{html_text(self._title(number))}"><figcaption>{caption}</figcaption></figure>'
        )

    def _thumbnail(self, number: int) -> str:
        if number not in self._thumbnails:
            small = self._image(number).copy()
            small.thumbnail((_THUMBNAIL, _THUMBNAIL))
            content = io.BytesIO()
            small.save(content, "JPEG", quality=_QUALITY)
            text = base64.b64encode(content.getvalue()).decode()
            self._thumbnails[number] = f"data:image/jpeg;base64,{text}"
        return self._thumbnails[number]


def _colours(count: int) -> Sequence[str]:
    """As many colours; beyond the palette hues of equal distance, in turns dark and light."""
    if count <= len(PALETTE):
        return PALETTE[:count]
    return [f"hsl({360 * i // count},70%,{(38, 58)[i % 2]}%)" for i in range(count)]
