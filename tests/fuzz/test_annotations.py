"""Annotations in COCO's and VOC's formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from erssl.downstream.detection.coco import (
    CocoSource,
    check_same_categories,
    read_coco,
)
from erssl.downstream.detection.voc import read_voc

from . import samples
from .harness import Surface, check
from .strategies import Change, Edit, as_json, changed, changes, damaged, edits, names, texts

_COCO: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "1.png", "width": 12, "height": 9},
        {"id": 2, "file_name": "2.png", "width": 12, "height": 9},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 3,
            "bbox": [1, 1, 5, 5],
            "area": 25.0,
            "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]],
            "iscrowd": 0,
        },
        {
            "id": 2,
            "image_id": 2,
            "category_id": 7,
            "bbox": [0, 0, 5.5, 5],
            "area": 25,
            "segmentation": {"size": [9, 12], "counts": [0, 9, 99]},
            "iscrowd": 1,
        },
    ],
    "categories": [{"id": 3, "name": "square"}, {"id": 7, "name": "bar"}],
}


def _act_coco(case: tuple[list[Change], list[Edit], bool], folder: Path) -> None:
    what, damage, masks = case
    for number in (1, 2):
        (folder / f"{number}.png").write_bytes(samples.images()["RGB.png"])
    (folder / "sound.json").write_bytes(as_json(_COCO))
    (folder / "other.json").write_bytes(damaged(as_json(changed(_COCO, what)), damage))
    sound = read_coco(CocoSource(folder, folder / "sound.json"), "train", masks)
    other = read_coco(CocoSource(folder, folder / "other.json"), "val", masks)
    check_same_categories(sound, other)
    read_coco(CocoSource(folder, folder / "other.json"), "train", masks)
    _ = other.counts, other.notes, other.has_codes


_XML = """<annotation><size><width>12</width><height>9</height></size>
<object><name>cat</name><pose>left</pose><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></object></annotation>
"""
_LAUGHS = "<!DOCTYPE a [<!ENTITY a0 'ha'>{}]><annotation>&a9;</annotation>".format(
    "".join(f"<!ENTITY a{n + 1} '{f'&a{n};' * 10}'>" for n in range(9))
)
_OUTSIDE = "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/hostname'>]><annotation>&x;</annotation>"
_words = st.one_of(st.sampled_from(["nan", "inf", "-5", "9" * 5000, "1e999", "", "x", "0"]), names)
_xml = st.one_of(
    st.just(_XML.encode()),
    edits.map(lambda damage: damaged(_XML.encode(), damage)),
    _words.map(lambda word: _XML.replace(">1<", f">{word}<").encode("utf-8", "replace")),
    _words.map(lambda word: _XML.replace(">12<", f">{word}<").encode("utf-8", "replace")),
    st.sampled_from([_LAUGHS.encode(), _OUTSIDE.encode(), b"<a>" * 50_000]),
)
_lists = st.one_of(st.just(b"000001\n000002\n"), st.just(b"000001\n"), texts)


def _act_voc(case: tuple[bytes, bytes, bytes], folder: Path) -> None:
    annotation, train, test = case
    base = folder / "VOCdevkit" / "VOC2007"
    for place in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (base / place).mkdir(parents=True)
    for number in (1, 2):
        (base / f"JPEGImages/{number:06}.jpg").write_bytes(samples.images()["RGB.jpeg"])
        (base / f"Annotations/{number:06}.xml").write_text(_XML)
    (base / "Annotations/000002.xml").write_bytes(annotation)
    (base / "ImageSets/Main/trainval.txt").write_bytes(train)
    (base / "ImageSets/Main/test.txt").write_bytes(test)
    for split in ("train", "val"):
        data = read_voc(folder, split)  # type: ignore[arg-type]
        _ = data.counts


SURFACES = [
    Surface(
        "COCO annotations",
        st.tuples(changes, st.one_of(st.just([]), st.just([]), edits), st.booleans()),
        _act_coco,
        share=14,
        prepare=samples.images,
    ),
    Surface(
        "VOC annotations",
        st.tuples(_xml, _lists, _lists),
        _act_voc,
        share=8,
        prepare=samples.images,
    ),
]


def test_any_coco_file_is_read_or_refused() -> None:
    check(SURFACES[0], 150)


def test_any_voc_file_is_read_or_refused() -> None:
    check(SURFACES[1], 80)
