"""The lists, tables and label files of the transfer suite."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from erssl.downstream.transfer.datasets import load_transfer
from erssl.downstream.transfer.splits import keep_splits, read_splits

from . import samples
from .harness import Surface, check
from .strategies import Edit, damaged, edits, texts


def _mat(**values: object) -> bytes:
    file = io.BytesIO()
    savemat(file, values)
    return file.getvalue()


def _npz(**values: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **values)
    return file.getvalue()


def _mosaic() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((32, 2048, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def _voc() -> str:
    return (
        "<annotation><object><name>{}</name><difficult>0</difficult></object></annotation>".format
    )("cat")


@cache
def _layouts() -> dict[str, tuple[dict[str, bytes], tuple[str, ...]]]:
    """Small data sets: their files by path, and which of them are read as lists."""
    jpeg = samples.images()["RGB.jpeg"]
    numbers = list(range(1, 13))
    cases: dict[str, tuple[dict[str, bytes], tuple[str, ...]]] = {}

    def add(name: str, lists: dict[str, bytes], files: list[str]) -> None:
        cases[name] = (dict.fromkeys(files, jpeg) | lists, tuple(lists))

    base = "fgvc-aircraft-2013b/data"
    rows = {"train": numbers[:8], "val": numbers[8:10], "test": numbers[10:]}
    lists = {f"{base}/variants.txt": b"707-320\nDC-3\n"}
    for split, own in rows.items():
        text = "".join(f"{n:07d} {('707-320', 'DC-3')[n % 2]}\n" for n in own)
        lists[f"{base}/images_variant_{split}.txt"] = text.encode()
    add("aircraft", lists, [f"{base}/images/{n:07d}.jpg" for n in numbers])

    labels = np.array([[1 + n % 2 for n in numbers]])
    ids = {"trnid": [numbers[:8]], "valid": [numbers[8:10]], "tstid": [numbers[10:]]}
    lists = {"flowers-102/setid.mat": _mat(**ids)}
    lists["flowers-102/imagelabels.mat"] = _mat(labels=labels)
    add("flowers", lists, [f"flowers-102/jpg/image_{n:05d}.jpg" for n in numbers])

    parts = {"train1": numbers[:8], "val1": numbers[8:10], "test1": numbers[10:]}
    lists = {}
    for part, own in parts.items():
        text = "".join(f"{'ab'[n % 2]}/{'ab'[n % 2]}_{n}.jpg\n" for n in own)
        lists[f"dtd/dtd/labels/{part}.txt"] = text.encode()
    add("dtd", lists, [f"dtd/dtd/images/{'ab'[n % 2]}/{'ab'[n % 2]}_{n}.jpg" for n in numbers])

    own = {c: [f"{c}/{n}" for n in numbers if "ab"[n % 2] == c] for c in "ab"}
    train = {c: names[:4] for c, names in own.items()}
    test = {c: names[4:] for c, names in own.items()}
    lists = {
        "food-101/meta/train.json": json.dumps(train).encode(),
        "food-101/meta/test.json": json.dumps(test).encode(),
    }
    add("food", lists, [f"food-101/images/{name}.jpg" for each in own.values() for name in each])

    def pets(part: list[int]) -> bytes:
        return "".join(f"{'ab'[n % 2]}_{n} {1 + n % 2} 1 1\n" for n in part).encode()

    lists = {
        "oxford-iiit-pet/annotations/trainval.txt": pets(numbers[:8]),
        "oxford-iiit-pet/annotations/test.txt": pets(numbers[8:]),
    }
    add("pets", lists, [f"oxford-iiit-pet/images/{'ab'[n % 2]}_{n}.jpg" for n in numbers])

    suns = [f"{'ab'[n % 2]}/{'ab'[n % 2]}bey/sun_{n}.jpg" for n in numbers]
    lists = {
        "SUN397/ClassName.txt": b"/a/abey\n/b/bbey\n",
        "SUN397/Training_01.txt": "".join(f"/{s}\n" for s in suns[:8]).encode(),
        "SUN397/Testing_01.txt": "".join(f"/{s}\n" for s in suns[8:]).encode(),
    }
    add("sun397", lists, [f"SUN397/{s}" for s in suns])

    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    kind = [(name, object) for name in fields]

    def cars(part: list[int]) -> bytes:
        marks = np.array([[(0, 0, 9, 9, 1 + n % 2, f"{n}.jpg") for n in part]], dtype=kind)
        return _mat(annotations=marks)

    classes = np.array([["one", "two"]], dtype=object)
    lists = {
        "stanford_cars/devkit/cars_meta.mat": _mat(class_names=classes),
        "stanford_cars/devkit/cars_train_annos.mat": cars(numbers[:8]),
        "stanford_cars/cars_test_annos_withlabels.mat": cars(numbers[8:]),
    }
    places = [("train", n) for n in numbers[:8]] + [("test", n) for n in numbers[8:]]
    add("cars", lists, [f"stanford_cars/cars_{part}/{n}.jpg" for part, n in places])

    base = "VOCdevkit/VOC2007"
    lists = {
        f"{base}/ImageSets/Main/{split}.txt": "".join(f"{n:06}\n" for n in part).encode()
        for split, part in rows.items()
    }
    lists |= {f"{base}/Annotations/{n:06}.xml": _voc().encode() for n in numbers}
    lists[f"{base}/Annotations/000002.xml"] = _voc().replace("cat", "dog").encode()
    add("voc2007", lists, [f"{base}/JPEGImages/{n:06}.jpg" for n in numbers])

    targets = np.arange(10) % 2
    lists = {
        "cifar10_exact_labels.npz": _npz(train_y=targets, test_y=targets),
        "cifar10_exact_train.png": _mosaic(),
        "cifar10_exact_test.png": _mosaic(),
    }
    add("cifar10", lists, [])
    lists = {
        "cifar-100-python/train": b"\x80\x04N.",
        "cifar-100-python/test": b"cos\nsystem\n(S'touch ran'\ntR.",
        "cifar-100-python/meta": b"cos\nsystem\n(S'touch ran'\ntR.",
    }
    add("cifar100", lists, [])
    add(
        "caltech101",
        {"caltech101/101_ObjectCategories/x.txt": b""},
        [
            *(
                f"caltech101/101_ObjectCategories/{c}/image_{n:04d}.jpg"
                for c in "ab"
                for n in numbers
            ),
            "caltech101/101_ObjectCategories/BACKGROUND_Google/image_0001.jpg",
        ],
    )
    return cases


_lines = st.sampled_from(
    [
        b"../../../etc/passwd\n",
        b"/etc/passwd\n",
        b"/abs/x.jpg one\n",
        b"a/../../b/x.jpg\n",
        b"..\n",
        b"1 2\n",
        b"\xff\xfe 1 1 1\n",
        b"a_1 1e9 1 1\n",
        b"x\x00y 1 1 1\n",
        b"0000001\n",
        b'{"a": ["/etc/passwd"], "b": ["../../x"]}',
        b'{"a": 3}',
        b"[" * 50_000,
        b"0000001 DC-3\n0000001 DC-3\n",
        b"cos\nsystem\n(S'touch ran'\ntR.",
    ]
)
_other = st.one_of(
    edits.map(lambda damage: ("damaged", damage)),
    st.one_of(texts, _lines).map(lambda text: ("instead", text)),
    _lines.map(lambda line: ("more", line)),
    st.just(("gone", b"")),
    st.just(("folder", b"")),
)
Other = tuple[str, list[Edit] | bytes]


def _act(case: tuple[int, list[tuple[int, Other]], bool], folder: Path) -> None:
    number, damage, partial_ok = case
    name, (files, lists) = list(_layouts().items())[number % len(_layouts())]
    files = dict(files)
    for which, (kind, value) in damage:
        place = lists[which % len(lists)]
        content = files.get(place, b"")
        if kind == "gone":
            files.pop(place, None)
        elif kind == "instead":
            files[place] = value  # type: ignore[assignment]
        elif kind == "more":
            files[place] = content + value  # type: ignore[operator]
        elif kind == "damaged":
            files[place] = damaged(content, value)  # type: ignore[arg-type]
    for place, content in files.items():
        (folder / "data" / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / place).write_bytes(content)
    for which, (kind, _) in damage:
        if kind == "folder":
            place = folder / "data" / lists[which % len(lists)]
            if not place.is_dir():
                place.unlink(missing_ok=True)
                place.mkdir(parents=True)
    try:
        data = load_transfer(name, folder / "data", partial_ok=partial_ok)
        (folder / "splits").mkdir()
        keep_splits(folder / "splits", data)
        read_splits(folder / "splits", name)
        _ = data.train[0]
    finally:
        assert not (folder / "ran").exists(), "a pickle was run"


_partial = st.sampled_from([True, True, True, False])
SURFACE = Surface(
    "lists of the transfer suite",
    st.tuples(
        st.integers(0, 10), st.lists(st.tuples(st.integers(0, 20), _other), max_size=2), _partial
    ),
    _act,
    share=11,
    prepare=_layouts,
)


def test_any_data_set_is_read_or_refused() -> None:
    check(SURFACE, 120)
